package pci

import (
	"testing"
)

func TestBARFollowsRegisters(t *testing.T) {
	b := newBoard(t)
	var events []uint64
	f := NewFunction(Identity{Vendor: 0x1af4, Device: 0x1042})
	f.AddBAR(BAR{Index: 0, Kind: Memory64, Size: 4096, Device: &ram{},
		Mapped: func(a uint64) { events = append(events, a) }, Unmapped: func(a uint64) { events = append(events, ^a) }})
	if err := b.Add(Address{Slot: 3}, f); err != nil {
		t.Fatal(err)
	}
	there := func(a uint64) bool { return b.memory.Read(a, make([]byte, 4)) }
	for _, c := range []struct {
		name   string
		at, n  int
		v      uint64
		mapped uint64 // 0: nowhere
		events int
	}{
		{"address alone", 0x10, 8, 0x9000_0000, 0, 0},
		{"decode on", 4, 2, commandMemory, 0x9000_0000, 1},
		{"bus mastering does not move it", 4, 2, commandMemory | commandMaster, 0x9000_0000, 1},
		{"move", 0x10, 4, 0x9100_0000, 0x9100_0000, 3},
		{"sizing the low half while decoding", 0x10, 4, 0xffff_ffff, 0xffff_f000, 5},
		{"sizing both halves while decoding", 0x14, 4, 0xffff_ffff, 0, 6},
		{"back", 0x10, 8, 0x9100_0000, 0x9100_0000, 7},
		{"onto RAM", 0x10, 4, 0x7fff_f000, 0, 8},
		{"onto the I/O APIC", 0x10, 4, 0xfec0_0000, 0, 8},
		{"above 4 GiB", 0x10, 8, 0x80_0000_1000, 0x80_0000_1000, 9},
		{"decode off", 4, 2, 0, 0, 10},
	} {
		write(f.ConfigWrite, c.at, c.n, c.v)
		if c.mapped != 0 && !there(c.mapped) {
			t.Errorf("%s: not at %#x", c.name, c.mapped)
		}
		if n := len(b.memory0()); (c.mapped != 0) != (n == 1) {
			t.Errorf("%s: %d ranges decoded", c.name, n)
		}
		if len(events) != c.events {
			t.Errorf("%s: %d callbacks, want %d: %x", c.name, len(events), c.events, events)
		}
	}
}

// memory0 lists what is decoded at the places this test uses.
func (b *board) memory0() []uint64 {
	var at []uint64
	for _, a := range []uint64{0x9000_0000, 0x9100_0000, 0xffff_f000, 0x80_0000_1000, 0x7fff_f000, 0xfec0_0000, 0xffff_ffff_ffff_f000} {
		if b.memory.Read(a, make([]byte, 4)) {
			at = append(at, a)
		}
	}
	return at
}

func TestBAROntoAnotherIsRefusedUntilItMoves(t *testing.T) {
	b := newBoard(t)
	var fs [2]*Function
	for i := range fs {
		fs[i] = NewFunction(Identity{Vendor: 0x1af4, Device: 0x1042})
		d := &ram{}
		d.data[0] = byte(i + 1)
		fs[i].AddBAR(BAR{Index: 0, Kind: Memory32, Size: 4096, Device: d})
		if err := b.Add(Address{Slot: uint8(3 + i)}, fs[i]); err != nil {
			t.Fatal(err)
		}
		write(fs[i].ConfigWrite, 0x10, 4, 0x9000_0000)
		write(fs[i].ConfigWrite, 4, 2, commandMemory)
	}
	who := func(a uint64) byte {
		p := make([]byte, 1)
		b.memory.Read(a, p)
		return p[0]
	}
	if who(0x9000_0000) != 1 || len(b.log) != 1 {
		t.Errorf("answered by %d, log %q", who(0x9000_0000), b.log)
	}
	write(fs[0].ConfigWrite, 0x10, 4, 0x9100_0000)
	if who(0x9000_0000) != 2 || who(0x9100_0000) != 1 {
		t.Error("the refused BAR did not get the place that became free")
	}
	for i := 0; i < 1000; i++ {
		write(fs[1].ConfigWrite, 0x10, 4, 0x9100_0000)
		write(fs[1].ConfigWrite, 0x10, 4, 0x1000_0000)
	}
	if len(b.log) > 100 {
		t.Errorf("a guest wrote %d lines into the log", len(b.log))
	}
}

func TestWindowWithin(t *testing.T) {
	all := func(bits int) Range { return Range{0, 1 << bits} }
	for _, c := range []struct {
		within            Range
		from, limit, size uint64
		want              Range
	}{
		{all(40), 4 << 30, 1 << 40, 32 << 30, Range{32 << 30, 32 << 30}},
		{all(46), 100 << 30, 1 << 46, 128 << 30, Range{128 << 30, 128 << 30}},
		{all(36), 40 << 30, 1 << 36, 32 << 30, Range{}},
		{all(36), 40 << 30, 1 << 36, 16 << 30, Range{48 << 30, 16 << 30}},
		{all(36), 64 << 30, 1 << 36, 1 << 30, Range{}},
		{all(52), 0, 1 << 40, 1 << 30, Range{4 << 30, 1 << 30}},
		{Range{1 << 40, 1 << 40}, 4 << 30, 1 << 46, 256 << 30, Range{1 << 40, 256 << 30}},
		{Range{1<<40 + 1, 256 << 30}, 4 << 30, 1 << 46, 256 << 30, Range{}},
		{Range{0, 0xfee00000}, 0, 1 << 46, 1 << 30, Range{}},
	} {
		if got := WindowWithin(c.within, c.from, c.limit, c.size); got != c.want {
			t.Errorf("WindowWithin(%#x, %#x, %#x, %#x) = %#x, want %#x", c.within, c.from, c.limit, c.size, got, c.want)
		}
	}
}
