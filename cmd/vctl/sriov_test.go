package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"virtd/nodedev"
	"virtd/nodedev/nodedevtest"
)

// hostdevs takes the recorded devices from their drivers and gives them back, with a kernel in memory.
func (b *bed) hostdevs(sys string) *nodedev.Hostdevs {
	b.t.Helper()
	for _, at := range []string{"0000:00:02.1/0000:02:00.0", "0000:00:02.0/0000:01:10.2"} {
		nodedevtest.Build(b.t, sys, "@ devices/pci0000:00/"+at+"\nreset 0")
	}
	kernel := &nodedevtest.Kernel{Root: sys, Native: map[string]string{"0000:02:00.0": "e1000e", "0000:01:10.2": "igbvf"},
		VFs: func(_ string, i int) (string, string) {
			return fmt.Sprintf("0000:01:10.%d", 2*i), "iommu_group -> kernel/iommu_groups/3\nvendor 0x8086\ndevice 0x10ca\nuevent PCI_CLASS=20000\nconfig 0e=00"
		}}
	h, err := nodedev.OpenHostdevs(nodedev.HostdevsConfig{
		Sys: sys, Proc: filepath.Join(b.dir, "proc"), Dev: filepath.Join(b.dir, "dev"), State: filepath.Join(b.dir, "hostdevs"),
		Log: slog.New(slog.DiscardHandler), Write: kernel.Write, Functions: &functionLinks{set: map[int]nodedev.FunctionConfig{}},
		Modprobe: func(_ context.Context, module string) error {
			return os.MkdirAll(filepath.Join(sys, "bus/pci/drivers", module), 0o755)
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

// functionLinks remembers what virtual functions were told.
type functionLinks struct {
	mu  sync.Mutex
	set map[int]nodedev.FunctionConfig
}

func (f *functionLinks) Function(_ string, vf int) (nodedev.FunctionConfig, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set[vf], nil
}

func (f *functionLinks) SetFunction(_ string, vf int, c nodedev.FunctionConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set[vf] = c
	return nil
}

func TestSRIOVCommands(t *testing.T) {
	b := newBed(t)
	b.day([]line{
		{"sriov list", 0, `^0000:01:00.0 enp1s0 \(driver igb\): 2 of 7 virtual functions\n  0 0000:01:10.0 enp1s0v0 driver igbvf\n  1 0000:01:10.2  driver igbvf\n`},
		{"sriov create 01:00.0 3 --persist", 0, `^3 virtual functions of 01:00.0 created\n$`},
		{"sriov list", 0, `: 3 of 7 virtual functions, again after a boot\n`},
		{"-o json sriov create 01:00.0 3 --persist --no-driver", 0, `^\{\n  "result": "3 virtual functions of 01:00.0 created"\n\}\n$`},
		{"sriov create pci_0000_01_00_0 8", 1, `^error: failed to create virtual functions: .*can have 0 to 7 virtual functions, not 8`},
		{"sriov create 01:00.0 none", 1, `^error: 'none' is not a number of virtual functions`},
		{"sriov create 01:00.0 0", 1, `^error: '0' is not a number of virtual functions`},
		{"sriov create 01:00.0", 1, `^error: command 'sriov create' requires <count>`},
		{"sriov create 02:00.0 1", 1, `PCI device 0000:02:00.0 has no SR-IOV`},
		{"sriov set 0000:01:10.2 --vlan 42 --mac 52:54:00:77:00:02", 0, `^Virtual function 0000:01:10.2 configured\n$`},
		{"sriov list", 0, `(?m)^  1 0000:01:10.2 .* mac 52:54:00:77:00:02 vlan 42$`},
		{"sriov set 0000:01:10.2", 1, `^error: nothing to set`},
		{"sriov set 0000:01:10.2 --trust maybe", 1, `^error: failed to configure virtual function 0000:01:10.2: .*'maybe' is not a value of trust`},
		{"sriov set 0000:01:10.2 --vlan 4095", 1, `^error: failed to configure virtual function 0000:01:10.2: `},
		{"sriov set --vlan 1", 1, `^error: command 'sriov set' requires <vf>`},
	})
	out, stderr, _ := b.run("", "-o", "json", "sriov", "list")
	var cards []listedCard
	if err := json.Unmarshal([]byte(out), &cards); err != nil || len(cards) != 1 || len(cards[0].Functions) != 3 {
		t.Fatalf("%v\n%s%s", err, out, stderr)
	}
	if c := cards[0]; c.Address != "0000:01:00.0" || c.Interface != "enp1s0" || c.Driver != "igb" || c.Total != 7 || !c.Persist ||
		c.Functions[1].Number != 1 || c.Functions[1].Settings["vlan"] != "42" || c.Functions[0].Settings["vlan"] != "" {
		t.Errorf("%+v", c)
	}
	b.day([]line{
		{"sriov remove 01:00.0", 0, `^Virtual functions of 01:00.0 removed\n$`},
		{"sriov list", 0, `: 0 of 7 virtual functions\n$`},
		{"sriov remove 02:00.0", 1, `^error: failed to remove virtual functions: .*has no SR-IOV`},
		{"sriov remove", 1, `^error: command 'sriov remove' requires <card>`},
		{"sriov nonsense", 1, `^error: unknown command: 'sriov nonsense'`},
	})
}

func TestPassthroughCommand(t *testing.T) {
	b := newBed(t)
	b.run(testDomain, "define", "-")
	b.day([]line{
		{"passthrough 02:00.0 demo", 0, `^Device pci_0000_02_00_0 can be given to a guest\nDevice pci_0000_02_00_0 attached to domain 'demo' from its next start on\n$`},
		{"dumpxml demo", 0, `(?s)<hostdev mode='subsystem' type='pci' managed='yes'>.*<address domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>`},
		{"nodedev dumpxml pci_0000_02_00_0", 0, `<name>e1000e</name>`}, // given back until the start
		{"device list demo", 0, `(?m)^ hostdev +- +- +0000:\S+ +0000:02:00.0$`},
		{"passthrough 0000:02:00.0 demo", 1, `^error: failed to attach device pci_0000_02_00_0 to domain 'demo': .*in the domain twice`},
		{"nodedev dumpxml pci_0000_02_00_0", 0, `<name>e1000e</name>`}, // given back after a failure too
		{"passthrough pci_0000_01_10_2 demo --group", 0, `attached to domain 'demo'`},
		{"nodedev dumpxml pci_0000_01_10_2", 0, `<name>vfio-pci</name>`},
		{"passthrough 00:02.0 demo", 1, `^error: device pci_0000_00_02_0 cannot be given to a guest: .*it is a bridge`},
		{"passthrough eth0 demo", 1, `^error: 'eth0' is not a PCI address like 0000:01:00.0`},
		{"passthrough 09:00.0 demo", 1, `^error: could not find matching device 'pci_0000_09_00_0'`},
		{"passthrough 02:00.0 nobody", 1, `^error: failed to get domain 'nobody'`},
		{"start demo", 0, ``},
		{"passthrough 01:10.0 demo", 0, `attached to domain 'demo' now and from its next start on\n$`},
		{"device list demo", 0, `0000:01:10.0`},
		{"passthrough 03:00.0 demo --config --iommufd", 1, `some host devices of the domain use iommufd and some do not`},
		{"passthrough 03:00.0 demo --config", 0, `attached to domain 'demo' from its next start on\n$`},
		{"passthrough 02:00.0", 1, `^error: command 'passthrough' requires <domain>`},
	})
}
