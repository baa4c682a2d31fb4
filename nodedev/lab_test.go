package nodedev

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"virtd/lab/labtest"
)

const (
	labIgb     = "/sys/bus/pci/devices/0000:01:00.0"
	labTimeout = 2 * time.Minute // the lab is slow; nothing here takes seconds
)

// TestLabNodeDevices: real network cards and an NVMe disk are described, and virtual functions come and go with events.
func TestLabNodeDevices(t *testing.T) {
	labtest.Need(t, labtest.SRIOV, labtest.Program("ip"), labtest.Program("modprobe"))
	for _, module := range []string{"igb", "e1000e", "nvme"} {
		labRun(t, "modprobe", module)
	}
	labFunctions(t, "0")
	t.Cleanup(func() { os.WriteFile(labIgb+"/sriov_numvfs", []byte("0"), 0) })
	m := open(t, Local())
	if m.source == nil {
		t.Fatal("root cannot receive uevents")
	}
	for _, c := range []struct{ name, driver, vendor, product, productName string }{
		{"pci_0000_01_00_0", "igb", "0x8086", "0x10c9", "82576 Gigabit Network Connection"},
		{"pci_0000_02_00_0", "e1000e", "0x8086", "0x10d3", "82574L Gigabit Network Connection"},
		{"pci_0000_03_00_0", "nvme", "0x1b36", "0x0010", "QEMU NVM Express Controller"},
	} {
		d := labDevice(t, m, c.name)
		p := d.Capability.PCI
		if d.Driver == nil || d.Driver.Name != c.driver || p.Vendor.ID != c.vendor || p.Product.ID != c.product || p.Product.Name != c.productName {
			t.Errorf("%s: %+v %+v", c.name, d.Driver, p)
		}
		if p.IOMMUGroup == nil || len(p.IOMMUGroup.Address) == 0 || p.PCIExpress == nil {
			t.Errorf("%s: IOMMU group %+v, link %+v", c.name, p.IOMMUGroup, p.PCIExpress)
		}
		if !strings.HasPrefix(d.Parent, "pci_0000_00_") || labDevice(t, m, d.Parent).Capability.PCI == nil {
			t.Errorf("%s hangs on %s, not on a root port", c.name, d.Parent)
		}
	}
	labNetAndDisk(t, m)
	labVirtualFunctions(t, m)
}

// labNetAndDisk looks for what the drivers made of the functions; they do so after modprobe has returned.
func labNetAndDisk(t *testing.T, m *Manager) {
	for mac, parent := range map[string]string{"52_54_00_aa_00_01": "pci_0000_01_00_0", "52_54_00_aa_00_02": "pci_0000_02_00_0"} {
		name := labWait(t, m, "the interface with the address "+mac, func(d Device) bool { return d.Kind == Net && strings.HasSuffix(d.Name, mac) })
		d := labDevice(t, m, name)
		if d.Parent != parent || d.Capability.Net == nil || d.Capability.Net.Address != strings.ReplaceAll(mac, "_", ":") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	name := labWait(t, m, "the NVMe disk", func(d Device) bool { return d.Kind == Storage && strings.HasPrefix(d.Name, "block_nvme") })
	disk := labDevice(t, m, name).Capability.Storage
	if disk == nil || !strings.HasSuffix(disk.Serial, "_LAB") || disk.Size == nil || *disk.Size != 64<<20 || disk.DriverType != "disk" {
		t.Errorf("%s: %+v", name, disk)
	}
}

func labVirtualFunctions(t *testing.T, m *Manager) {
	interfaces, err := filepath.Glob(labIgb + "/net/*")
	if err != nil || len(interfaces) != 1 {
		t.Fatalf("interfaces of the igb card: %v, %v", interfaces, err)
	}
	labRun(t, "ip", "link", "set", filepath.Base(interfaces[0]), "up")
	events := make(chan Event, 1000)
	defer m.Subscribe(func(e Event) {
		if strings.HasPrefix(e.Device, "pci_0000_01_10_") && e.Kind != Changed {
			events <- e
		}
	})()
	functions := []string{"pci_0000_01_10_0", "pci_0000_01_10_2"}
	labFunctions(t, "2")
	for _, f := range functions {
		labExpect(t, events, Event{Created, f})
	}
	pf := labDevice(t, m, "pci_0000_01_00_0").Capability.PCI
	found := false
	for _, c := range pf.Capabilities {
		if v := c.VirtFunctions; v != nil {
			found = true
			if v.MaxCount != 7 || len(v.Address) != 2 || *v.Address[0].Slot != 0x10 || *v.Address[1].Function != 2 {
				t.Errorf("virtual functions of the card: %+v", v)
			}
		}
	}
	if !found {
		t.Errorf("the card has no virtual functions: %+v", pf)
	}
	for _, f := range functions {
		vf := labDevice(t, m, f).Capability.PCI
		physical := false
		for _, c := range vf.Capabilities {
			physical = physical || c.PhysFunction != nil && *c.PhysFunction.Address.Bus == 1 && *c.PhysFunction.Address.Slot == 0
		}
		if !physical || vf.Product.ID != "0x10ca" || vf.IOMMUGroup == nil {
			t.Errorf("%s: %+v", f, vf)
		}
	}
	labFunctions(t, "0")
	gone := map[string]bool{} // the kernel takes them away in an order of its own
	for range functions {
		select {
		case e := <-events:
			if e.Kind != Deleted || gone[e.Device] {
				t.Fatalf("event %+v", e)
			}
			gone[e.Device] = true
		case <-time.After(labTimeout):
			t.Fatalf("no event, only %v are gone", gone)
		}
	}
	for _, f := range functions {
		if _, err := m.Lookup(f); err == nil || !gone[f] {
			t.Errorf("%s is still there: %v", f, gone)
		}
	}
}

func labExpect(t *testing.T, events <-chan Event, want Event) {
	t.Helper()
	select {
	case e := <-events:
		if e != want {
			t.Fatalf("event %+v, want %+v", e, want)
		}
	case <-time.After(labTimeout):
		t.Fatalf("no event, want %+v", want)
	}
}

func labRun(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
}

// labFunctions sets the number of the card's virtual functions.
func labFunctions(t *testing.T, number string) {
	t.Helper()
	if err := os.WriteFile(labIgb+"/sriov_numvfs", []byte(number), 0); err != nil {
		t.Fatal(err)
	}
}

func labDevice(t *testing.T, m *Manager, name string) libvirtxml.NodeDevice {
	t.Helper()
	text, err := m.XML(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(text)
	var d libvirtxml.NodeDevice
	if err := d.Unmarshal(text); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return d
}

// labWait polls until a device is there, and returns its name.
func labWait(t *testing.T, m *Manager, what string, is func(Device) bool) string {
	t.Helper()
	for end := time.Now().Add(labTimeout); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, d := range m.List() {
			if is(d) {
				return d.Name
			}
		}
	}
	t.Fatalf("%s is not there after %v", what, labTimeout)
	return ""
}
