package nodedev

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"virtd/nodedev/nodedevtest"
)

// hosts are machines as sysfs shows them, in testdata, and what is told of them.
var hosts = []struct {
	tree  string
	count map[Kind]int
	says  map[string][]string // parts of documents
	never []string            // what no document says
}{
	{
		tree:  "ixgbe",
		count: map[Kind]int{System: 1, PCI: 66, Net: 2},
		says: map[string][]string{
			"pci_0000_04_00_0": {"<capability type='virt_functions' maxCount='63'>\n      <address domain='0x0000' bus='0x04' slot='0x10' function='0x0'/>",
				"<address domain='0x0000' bus='0x04' slot='0x1f' function='0x4'/>\n    </capability>", "<numa node='1'/>", "<link validity='sta' speed='5' width='8'/>"},
			"pci_0000_04_00_1": {"<capability type='virt_functions' maxCount='63'/>"},
			"pci_0000_04_1f_4": {"<capability type='phys_function'>\n      <address domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>", "<iommuGroup number='162'>",
				"<parent>pci_0000_00_03_0</parent>"},
			"net_ens4f0_90_e2_ba_00_00_10": {"<link speed='10000' state='up'/>"},
			"net_ens4f1_90_e2_ba_00_00_11": {"<link state='down'/>"},
		},
	},
	{
		tree:  "gpu",
		count: map[Kind]int{System: 1, PCI: 3, DRM: 1},
		says: map[string][]string{
			"pci_0000_00_01_0": {"<capability type='pci-bridge'/>"},
			"pci_0000_01_00_0": {"<class>0x030000</class>", "<iommuGroup number='1'>\n      <address domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>\n" +
				"      <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>\n      <address domain='0x0000' bus='0x01' slot='0x00' function='0x1'/>\n    </iommuGroup>"},
			"drm_card0": {"<parent>pci_0000_01_00_0</parent>"},
		},
	},
	{
		tree:  "noacs",
		count: map[Kind]int{System: 1, PCI: 4, Net: 1},
		says:  map[string][]string{"pci_0000_03_00_0": {"<iommuGroup number='7'>", "bus='0x02'", "slot='0x1c' function='0x4'"}},
	},
	{
		tree:  "fourport",
		count: map[Kind]int{System: 1, PCI: 5, Net: 4},
		says: map[string][]string{
			"pci_0000_05_00_3": {"<iommuGroup number='53'>", "<capability type='virt_functions' maxCount='7'/>", "<name>Quad Port 1GbE Adapter</name>",
				"<part_number>0THGMP</part_number>", "<vendor_field index='0'>FFV17.0.12</vendor_field>"},
			"net_eno2_a0_36_9f_00_00_02": {"<parent>pci_0000_05_00_2</parent>"},
		},
	},
	{
		tree:  "malformed",
		count: map[Kind]int{System: 1, PCI: 3, Net: 1, Storage: 1, SCSIHost: 1, SCSI: 1},
		says: map[string][]string{
			"pci_0000_00_01_0": {"<product id='0x0000'/>", "<vendor id='0x0000'/>"},
			"net____eth0":      {"<interface>&lt;&amp;", "<link/>"},
			"block_vda":        {"<size>0</size>"},
		},
		never: []string{"virt_functions", "phys_function", "mdev_types", "vpd", "<numa", "passwd"},
	},
}

// unreadable are devices of the malformed host that are listed, and cannot be described.
var unreadable = []string{"pci_0000_00_03", "scsi_target9_x"}

// TestHosts: devices are found and described on machines of several kinds, in documents that libvirt's schema accepts.
func TestHosts(t *testing.T) {
	folder := t.TempDir()
	var files []string
	for _, h := range hosts {
		m := open(t, Config{Sys: nodedevtest.Load(t, "testdata/"+h.tree+".tree"), UUID: "6b1a2f4e-0000-4000-8000-0123456789ab", Log: slog.New(slog.DiscardHandler)})
		count := map[Kind]int{}
		for _, d := range m.List() {
			count[d.Kind]++
			text, err := m.XML(d.Name)
			if slices.Contains(unreadable, d.Name) {
				if err == nil || !strings.Contains(err.Error(), "describe "+d.Name+" at /sys/") {
					t.Errorf("%s: %s: %v", h.tree, d.Name, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", h.tree, err)
				continue
			}
			for _, want := range h.says[d.Name] {
				if !strings.Contains(text, want) {
					t.Errorf("%s: %s does not say %s\n%s", h.tree, d.Name, want, text)
				}
			}
			for _, no := range h.never {
				if strings.Contains(text, no) {
					t.Errorf("%s: %s says %s\n%s", h.tree, d.Name, no, text)
				}
			}
			file := filepath.Join(folder, h.tree+"-"+d.Name+".xml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if h.tree != "malformed" { // its numbers and links are not in the schema's patterns
				files = append(files, file)
			}
		}
		for kind := range h.says {
			if _, err := m.Lookup(kind); err != nil {
				t.Errorf("%s: %v", h.tree, err)
			}
		}
		if len(count) != len(h.count) {
			t.Errorf("%s: devices %v, want %v", h.tree, count, h.count)
		}
		for kind, n := range h.count {
			if count[kind] != n {
				t.Errorf("%s: %d devices of kind %s, want %d", h.tree, count[kind], kind, n)
			}
		}
	}
	accepted(t, files)
}

// TestHostsViability: which functions of these machines can be given to a guest, and what is said of the others.
func TestHostsViability(t *testing.T) {
	ctx := context.Background()
	const routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask\neno0 00000000 0102A8C0 0003 0 0 100 00000000 0 0 0\n"
	for _, c := range []struct {
		tree string
		at   Address
		opts DetachOptions
		says []string // none: it is detached
	}{
		{"ixgbe", Address{Bus: 4, Device: 0x1f, Function: 4}, DetachOptions{Strict: true}, nil},
		{"ixgbe", Address{Bus: 4, Function: 1}, DetachOptions{Strict: true}, nil},
		{"ixgbe", Address{Bus: 4}, DetachOptions{Strict: true}, []string{"it has 63 virtual functions, which would go"}},
		{"gpu", Address{Bus: 1}, DetachOptions{Strict: true}, []string{"IOMMU group 1 also has 0000:01:00.1 (driver snd_hda_intel);",
			"vctl nodedev detach --group pci_0000_01_00_0"}},
		{"gpu", Address{Bus: 1}, DetachOptions{Strict: true, Group: true}, nil},
		{"gpu", Address{Device: 1}, DetachOptions{}, []string{"is not assignable: it is a bridge"}},
		{"noacs", Address{Bus: 2}, DetachOptions{Strict: true}, []string{"IOMMU group 7 also has 0000:03:00.0 (driver ahci);", "move the card to a slot with a group of its own"}},
		{"noacs", Address{Bus: 2}, DetachOptions{Strict: true, Group: true}, []string{"0000:03:00.0 is in use by the host: disk sda1 holds the file system at /"}},
		{"fourport", Address{Bus: 5, Function: 1}, DetachOptions{Strict: true}, nil},
		{"fourport", Address{Bus: 5}, DetachOptions{Strict: true}, []string{"eno0 has the default route"}},
		{"fourport", Address{Bus: 5, Function: 2}, DetachOptions{Strict: true}, []string{"eno2 is a member of bridge br0"}},
		{"malformed", Address{Device: 2}, DetachOptions{}, []string{"VFIO device assignment is currently not supported on this system"}},
		{"malformed", Address{Device: 4}, DetachOptions{}, []string{"VFIO device assignment is currently not supported on this system"}},
		{"malformed", Address{Device: 0x1f}, DetachOptions{}, []string{"Device 0000:00:1f.0 not found"}},
	} {
		b := newHostdevsOn(t, nodedevtest.Load(t, "testdata/"+c.tree+".tree"), nil)
		put(t, filepath.Join(b.cfg.Proc, "net/route"), routes)
		group := b.endpoints("bus/pci/devices/" + c.at.String())
		before := map[Address]string{}
		for _, a := range group {
			before[a] = b.Driver(a)
		}
		err := b.Detach(ctx, c.at, c.opts)
		t.Logf("%s %s: %v", c.tree, c.at, err)
		if len(c.says) == 0 {
			b.ok(err)
			b.has(c.at, "vfio-pci")
			continue
		}
		b.refuses(err, c.says...)
		for _, a := range group {
			b.has(a, before[a])
		}
	}
}

// TestHostsFunctions: cards with SR-IOV are found, and garbage is not taken for one.
func TestHostsFunctions(t *testing.T) {
	for tree, want := range map[string][]int{"ixgbe": {63, 0}, "fourport": {0, 0, 0, 0}, "gpu": nil, "malformed": nil} {
		b := newHostdevsOn(t, nodedevtest.Load(t, "testdata/"+tree+".tree"), nil)
		var got []int
		for _, p := range b.PhysicalFunctions() {
			got = append(got, len(p.Functions))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: cards with %v functions, want %v", tree, got, want)
		}
	}
}
