package hypervisor

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"virtd/hypervisor/boot"
	"virtd/hypervisor/memory"
	"virtd/hypervisor/pci"
)

// TestMemoryMap pins the guest ABI: where RAM, the hotplug hole and the 64-bit window are.
func TestMemoryMap(t *testing.T) {
	for _, c := range []struct {
		machine string
		mib     uint64
		bits    int
		want    string
	}{
		{MachineQ35, 256, 40, "ram 0+10000000 hot 100000000+800000000"},
		{MachineQ35, 2816, 40, "ram 0+b0000000 hot 100000000+800000000"},
		{MachineQ35, 2817, 40, "ram 0+80000000 100000000+30100000 hot 140000000+800000000"},
		{MachineQ35, 5120, 40, "ram 0+80000000 100000000+c0000000 hot 1c0000000+800000000"},
		{MachineQ35, 65536, 46, "ram 0+80000000 100000000+f80000000 hot 1080000000+1000000000"},
		{MachinePC, 3584, 40, "ram 0+e0000000 hot 100000000+800000000"},
		{MachinePC, 4096, 40, "ram 0+c0000000 100000000+40000000 hot 140000000+800000000"},
		{MachineQ35, 1024, 36, "ram 0+40000000 hot 100000000+200000000"},
	} {
		m, err := newMemoryMap(mapConfig{machine: c.machine, ram: c.mib << 20, physBits: c.bits})
		if err != nil {
			t.Errorf("%s %d MiB: %v", c.machine, c.mib, err)
			continue
		}
		got := "ram"
		for _, r := range m.ram {
			got += fmt.Sprintf(" %x+%x", r.GPA, r.Size)
		}
		got += fmt.Sprintf(" hot %x+%x", m.hotplug.GPA, m.hotplug.Size)
		if got != c.want {
			t.Errorf("%s with %d MiB and %d bits:\n got %s\nwant %s", c.machine, c.mib, c.bits, got, c.want)
		}
	}
}

func TestMemoryMapRefused(t *testing.T) {
	for _, c := range []struct {
		machine string
		size    uint64
		bits    int
	}{
		{"isapc", 64 << 20, 40}, {MachineQ35, 0, 40}, {MachineQ35, 4096, 40}, {MachineQ35, 64<<20 + 1, 40},
		{MachineQ35, 64 << 20, 32}, {MachineQ35, 64 << 20, 60}, {MachineQ35, 64 << 30, 36}, {MachineQ35, 1 << 63, 46},
	} {
		if _, err := newMemoryMap(mapConfig{machine: c.machine, ram: c.size, physBits: c.bits}); err == nil {
			t.Errorf("%s with %d bytes and %d bits was accepted", c.machine, c.size, c.bits)
		}
	}
}

// TestMemoryMapDisjoint: whatever the size, nothing overlaps, everything is below the guest's last address, and the
// map that the kernel gets has all RAM but the reserved piece below 1 MiB.
func TestMemoryMapDisjoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		machine := rapid.SampledFrom([]string{MachineQ35, MachinePC}).Draw(t, "machine")
		bits := rapid.IntRange(36, 52).Draw(t, "bits")
		size := rapid.Uint64Range(512, 1<<22).Draw(t, "pages") * 4096
		var reach []memory.Range
		if rapid.Bool().Draw(t, "devices of the host") {
			at := uint64(0)
			for range rapid.IntRange(1, 4).Draw(t, "ranges") {
				r := memory.Range{GPA: at, Size: rapid.Uint64Range(1, 1<<24).Draw(t, "reached pages") * 4096}
				reach = append(reach, r)
				at += r.Size + rapid.Uint64Range(1, 1<<24).Draw(t, "reserved pages")*4096
			}
		}
		m, err := newMemoryMap(mapConfig{machine: machine, ram: size, physBits: bits, reach: reach})
		if err != nil {
			return
		}
		for _, r := range m.ram {
			if reach != nil && !reached(r, reach) {
				t.Fatalf("RAM at %#x of %#x bytes is not within %#x", r.GPA, r.Size, reach)
			}
		}
		type piece struct{ base, size uint64 }
		pieces := []piece{{m.windows.Memory32.Base, m.windows.Memory32.Size}, {m.windows.Memory64.Base, m.windows.Memory64.Size},
			{m.windows.ECAM, map[bool]uint64{true: ecamSize}[m.q35]}}
		for _, r := range m.reserved() {
			pieces = append(pieces, piece{r.Base, r.Size})
		}
		sort.Slice(pieces, func(i, j int) bool { return pieces[i].base < pieces[j].base })
		var end uint64
		for _, p := range pieces {
			if p.size == 0 {
				continue
			}
			if p.base < end || p.base+p.size > 1<<bits {
				t.Fatalf("%#x bytes at %#x overlap, or leave %d bits: %x", p.size, p.base, bits, pieces)
			}
			end = p.base + p.size
		}
		ram := uint64(0)
		for _, e := range m.entries() {
			if e.Type == boot.RAM {
				ram += e.Size
			}
		}
		if ram != size-(biosAreaEnd-biosAreaStart) {
			t.Fatalf("the kernel is told of %#x bytes of %#x", ram, size)
		}
	})
}

// TestWindow64 pins the 64-bit window: of 1.0 by RAM, of 1.1 a quarter of the address space, or what the domain says.
func TestWindow64(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		machine   string
		gibs      uint64
		bits      int
		hole, max uint64 // of the IOMMU, 0 for none
		want      pci.Range
	}{
		{MachineQ35V10, 1, 40, 0, 0, pci.Range{Base: 64 * gib, Size: 64 * gib}},
		{MachinePCV10, 64, 46, 0, 0, pci.Range{Base: 256 * gib, Size: 256 * gib}},
		{MachineQ35V10, 1, 36, 0, 0, pci.Range{Base: 32 * gib, Size: 32 * gib}},
		{MachineQ35, 1, 36, 0, 0, pci.Range{Base: 32 * gib, Size: 32 * gib}},
		{MachineQ35, 1, 39, 0, 0, pci.Range{Base: 128 * gib, Size: 128 * gib}},
		{MachinePC, 1, 40, 0, 0, pci.Range{Base: 256 * gib, Size: 256 * gib}},
		{MachineQ35, 64, 46, 0, 0, pci.Range{Base: 1024 * gib, Size: 1024 * gib}},
		{MachineQ35, 64, 52, 0, 0, pci.Range{Base: 1024 * gib, Size: 1024 * gib}},
		{MachineQ35, 1, 46, 0, 39, pci.Range{Base: 256 * gib, Size: 256 * gib}}, // a client's IOMMU, a server's processor
		{MachineQ35, 1, 46, 48 * gib, 0, pci.Range{Base: 64 * gib, Size: 64 * gib}},
		{MachineQ35, 1, 46, 2048 * gib, 39, pci.Range{Base: 2048 * gib, Size: 2048 * gib}}, // out of the IOMMU's reach, if it must
	} {
		var reach []memory.Range
		if c.max != 0 {
			reach = []memory.Range{{GPA: 0, Size: 0xfee00000}, {GPA: 0xfef00000, Size: 1<<c.max - 0xfef00000}}
		}
		m, err := newMemoryMap(mapConfig{machine: c.machine, ram: c.gibs * gib, physBits: c.bits, pciHole64: c.hole, reach: reach})
		if err != nil || m.windows.Memory64 != c.want {
			t.Errorf("%s with %d GiB, %d bits: %#x, %v; want %#x", c.machine, c.gibs, c.bits, m.windows.Memory64, err, c.want)
		}
	}
	if _, err := newMemoryMap(mapConfig{machine: MachineQ35, ram: gib, physBits: 40, pciHole64: 1 << 40}); err == nil || !strings.Contains(err.Error(), "pcihole64") {
		t.Errorf("a window of all of the address space: %v", err)
	}
}

// TestRAMWhereDevicesReach: RAM is placed around what devices of the host do not reach, or the range is named.
func TestRAMWhereDevicesReach(t *testing.T) {
	const gib = 1 << 30
	intel := []memory.Range{{GPA: 0, Size: 0xfee00000}, {GPA: 0xfef00000, Size: 1<<39 - 0xfef00000}}
	amd := []memory.Range{{GPA: 0, Size: 0xfee00000}, {GPA: 0xfef00000, Size: 0xfd00000000 - 0xfef00000}, {GPA: 1 << 40, Size: 1<<48 - 1<<40}}
	low := []memory.Range{{GPA: 0, Size: 0x7b800000}, {GPA: 0x7f000000, Size: 0xfee00000 - 0x7f000000}, {GPA: 0xfef00000, Size: 1<<39 - 0xfef00000}}
	for _, c := range []struct {
		name  string
		gibs  uint64
		reach []memory.Range
		want  string // RAM, or what the error says
	}{
		{"MSI window", 6, intel, "0+80000000 100000000+100000000"},
		{"address bits", 512, intel, "error: 524288 MiB of RAM do not fit the guest's 46 physical address bits where devices of the host reach them: their IOMMU reaches 0x0 to 0xfedfffff, 0xfef00000 to 0x7fffffffff"},
		{"HyperTransport", 1100, amd, "0+80000000 100000000+fc00000000 10000000000+1680000000"},
		{"below HyperTransport", 1000, amd, "0+80000000 100000000+f980000000"},
		{"graphics memory", 4, low, "0+7b800000 100000000+84800000"},
		{"beside graphics memory", 1, low, "0+40000000"},
		{"nothing low", 1, []memory.Range{{GPA: 16 << 20, Size: gib}}, "error: devices of the host cannot reach guest RAM at 0x0 to 0x3fffffff: their IOMMU reaches 0x1000000 to 0x40ffffff"},
		{"too little low", 1, []memory.Range{{GPA: 0, Size: 128 << 20}}, "error: devices of the host cannot reach guest RAM at 0x8000000 to 0x3fffffff"},
		{"nothing", 1, []memory.Range{}, "error: devices of the host cannot reach guest RAM at 0x0 to 0x3fffffff: their IOMMU reaches nothing"},
	} {
		m, err := newMemoryMap(mapConfig{machine: MachineQ35, ram: c.gibs * gib, physBits: 46, reach: c.reach})
		got := ""
		if err != nil {
			got = "error: " + err.Error()
		} else {
			for _, r := range m.ram {
				got += fmt.Sprintf(" %x+%x", r.GPA, r.Size)
			}
			got = got[1:]
		}
		if got != c.want && (err == nil || !strings.HasPrefix(got, c.want)) {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}
