package hypervisor

import (
	"fmt"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"virtd/hypervisor/boot"
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
		m, err := newMemoryMap(c.machine, c.mib<<20, c.bits)
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
		if _, err := newMemoryMap(c.machine, c.size, c.bits); err == nil {
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
		m, err := newMemoryMap(machine, size, bits)
		if err != nil {
			return
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
