package pci

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

func TestAssignAndBridges(t *testing.T) {
	b := newBoard(t)
	f, _ := testFunction(t, b.controller, true)
	g, _ := testFunction(t, b.controller, true)
	for i := uint8(1); i <= 9; i++ {
		if err := b.AddRootPort(Address{Slot: 2 + (i-1)/8, Function: (i - 1) % 8}, RootPortConfig{Index: i, Port: 0xf + i}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		a  Address
		ok bool
	}{{Address{Bus: 77}, false}, {Address{Bus: 1, Slot: 1}, false}, {Address{Slot: 32}, false}, {Address{Bus: 1}, true}, {Address{Bus: 1}, false}} {
		if err := b.Add(c.a, f); (err == nil) != c.ok {
			t.Errorf("Add at %v: %v", c.a, err)
		}
	}
	if err := b.Add(Address{Bus: 9}, g); err != nil {
		t.Fatal(err)
	}
	if err := b.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	if b.LastBus() != 9 {
		t.Errorf("last bus %d", b.LastBus())
	}
	ecam := func(bus, slot, fn, reg int) func(off int, p []byte) {
		base := testWindows.ECAM + uint64(bus<<20|slot<<15|fn<<12|reg)
		return func(off int, p []byte) { b.memory.Read(base+uint64(off), p) }
	}
	if got := read(ecam(1, 0, 0, 0), 0, 4); got != 0x10411af4 {
		t.Errorf("bus 1 through ECAM: %#x", got)
	}
	if got := read(ecam(0, 2, 0, 0x0c), 0, 4); got != 0x00810000 {
		t.Errorf("first root port of a slot with eight: header %#x", got)
	}
	if got := read(ecam(2, 0, 0, 0), 0, 4); got != 0xffffffff {
		t.Errorf("empty port: %#x", got)
	}
	ports := NewConfigPorts(b.Root, nil)
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], 0x8000_0000|9<<16|0x10)
	ports.Write(0, p[:])
	ports.Read(4, p[:])
	if got := binary.LittleEndian.Uint32(p[:]); got != f.Uint32(0x10)+0x1000 {
		t.Errorf("I/O BAR of the second device %#x, of the first %#x", got, f.Uint32(0x10))
	}
	for _, d := range []*Function{f, g} {
		for _, bar := range d.decoders {
			if !bar.mapped {
				t.Errorf("%v: %s is not decoded", d, bar.name)
			}
		}
	}
	// Closing the port's memory window hides what is behind it; opening it shows it again.
	port := b.bridges[1].f
	base := g.decoders[1].at
	if !b.memory.Read(base, p[:]) {
		t.Fatal("BAR 1 not there")
	}
	write(b.bridges[9].f.ConfigWrite, 4, 2, 0)
	if b.memory.Read(base, p[:]) {
		t.Error("BAR reachable through a closed bridge")
	}
	write(b.bridges[9].f.ConfigWrite, 4, 2, commandMemory|commandIO)
	if !b.memory.Read(base, p[:]) {
		t.Error("BAR gone after the bridge opened again")
	}
	// Renumbering moves where configuration accesses go.
	write(port.ConfigWrite, regSecondaryBus, 2, 0x4040)
	if got := read(ecam(0x40, 0, 0, 0), 0, 4); got != 0x10411af4 {
		t.Errorf("renumbered bus: %#x", got)
	}
	// A secondary bus reset takes the device back to power-on.
	write(port.ConfigWrite, regBridgeCtl, 1, bridgeCtlReset)
	if f.Uint16(regCommand) != 0 || f.decoders[1].mapped {
		t.Error("secondary bus reset left the device decoding")
	}
}

func TestAssignIsRepeatable(t *testing.T) {
	b := newBoard(t)
	if err := b.AddRootPort(Address{Slot: 2}, RootPortConfig{Index: 1, Port: 16}); err != nil {
		t.Fatal(err)
	}
	f, _ := testFunction(t, b.controller, true)
	if err := b.Add(Address{Bus: 1}, f); err != nil {
		t.Fatal(err)
	}
	var first []byte
	for i := range 3 {
		if err := b.Assign(testWindows); err != nil {
			t.Fatal(err)
		}
		now := make([]byte, 256)
		f.ConfigRead(0, now)
		if i == 0 {
			first = now
		} else if string(first) != string(now) {
			t.Error("assigned differently after a reset")
		}
		b.Reset()
	}
	small := testWindows
	small.Memory32.Size = 4096
	if err := b.Assign(small); err == nil {
		t.Error("assigned into a window that is too small")
	}
}

func TestPCBoard(t *testing.T) {
	b := &board{controller: newController()}
	pm := &ram{}
	pm.data[8] = 0x5a
	board, err := NewI440FX(I440FXConfig{RootConfig: b.config(), Controller: b.controller, PM: pm})
	if err != nil {
		t.Fatal(err)
	}
	f, m := testFunction(t, b.controller, false)
	if err := board.Add(Address{Slot: 4}, f); err != nil {
		t.Fatal(err)
	}
	w := testWindows
	w.ECAM = 0
	if err := board.Assign(w); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1)
	if b.ports.Read(0x608, p); p[0] != 0x5a {
		t.Errorf("PM block at 0x608: %#x", p[0])
	}
	line := PCPIRQLines[PCPIRQ(4, 1)]
	if f.Uint8(regIntLine) != line || m.Enabled() {
		t.Errorf("interrupt line %d, want %d", f.Uint8(regIntLine), line)
	}
	f.SetINTx(true)
	if !b.controller.level(uint32(line)) {
		t.Error("INTA# does not reach its line")
	}
	write(board.ISA.ConfigWrite, piixPIRQA+PCPIRQ(4, 1), 1, 5)
	if b.controller.level(uint32(line)) || !b.controller.level(5) {
		t.Error("steering to line 5 did not move the interrupt")
	}
	board.Reset()
	if b.controller.level(5) {
		t.Error("interrupt survives reset")
	}
}

// largeBAR is a function with a prefetchable 64-bit BAR of so many bytes.
func largeBAR(size uint64) *Function {
	f := NewFunction(Identity{Vendor: 0x10de, Device: 0x2330, Class: 0x030200})
	f.AddBAR(BAR{Index: 0, Kind: Memory32, Size: 16 << 20})
	f.AddBAR(BAR{Index: 2, Kind: Memory64, Prefetchable: true, Size: size})
	return f
}

// Root ports share half of the 64-bit window, so that a device with a large BAR can come to an empty one, and take what the
// devices need that are there.
func TestPortsShareTheWindow(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name   string
		window Range
		share  bool
		ports  uint8
		there  []uint64 // BARs, behind the first ports
		want   []uint64 // sizes of the prefetchable windows
	}{
		{"none of it before 1.1", Range{256 * gib, 256 * gib}, false, 3, []uint64{16 * gib}, []uint64{16 * gib, 2 << 20, 2 << 20}},
		{"empty ports", Range{256 * gib, 256 * gib}, true, 5, nil, []uint64{16 * gib, 16 * gib, 16 * gib, 16 * gib, 16 * gib}},
		{"a GPU and empty ports", Range{256 * gib, 256 * gib}, true, 4, []uint64{128 * gib}, []uint64{128 * gib, 32 * gib, 32 * gib, 32 * gib}},
		{"as much as there is room", Range{256 * gib, 256 * gib}, true, 4, []uint64{128 * gib, 64 * gib}, []uint64{128 * gib, 64 * gib, 32 * gib, 32 * gib}},
		{"no room to share", Range{256 * gib, 256 * gib}, true, 3, []uint64{128 * gib, 128*gib - 1<<36}, nil},
		{"many ports", Range{32 * gib, 32 * gib}, true, 30, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t)
			w := testWindows
			w.Memory64, w.Share = c.window, c.share
			for i := range c.ports {
				if err := b.AddRootPort(Address{Slot: 2 + i/8, Function: i % 8}, RootPortConfig{Index: i + 1}); err != nil {
					t.Fatal(err)
				}
			}
			for i, size := range c.there {
				if size&(size-1) != 0 {
					size = floorPower(size)
				}
				if err := b.Add(Address{Bus: uint8(i + 1)}, largeBAR(size)); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Assign(w); err != nil {
				t.Fatal(err)
			}
			var got []uint64
			used := Range{}
			for _, p := range b.sortedBridges() {
				pre := p.windows().prefetch
				if !c.window.contains(pre.Base, pre.Size) || used.Size > 0 && used.overlaps(pre.Base, pre.Size) {
					t.Errorf("window %#x is outside of %#x, or overlaps", pre, c.window)
				}
				if f := b.Function(Address{Bus: p.index}); f == nil && c.share && pre.Base%floorPower(pre.Size) != 0 {
					t.Errorf("window %#x of an empty port is not aligned to its size", pre)
				} else if f != nil && !f.decoders[1].mapped {
					t.Errorf("%v does not decode its large BAR", f)
				}
				used = pre
				got = append(got, pre.Size)
			}
			if c.want != nil && !slices.Equal(got, c.want) {
				t.Errorf("windows of %#x bytes, want %#x", got, c.want)
			}
		})
	}
}

// A device whose BAR fits no window is refused by name; a port reserves 32-bit memory when told so.
func TestWindowsAreFull(t *testing.T) {
	b := newBoard(t)
	if err := b.AddRootPort(Address{Slot: 2}, RootPortConfig{Index: 1, Memory: 64<<20 + 1}); err != nil {
		t.Fatal(err)
	}
	if err := b.Add(Address{Bus: 1}, largeBAR(16<<30)); err != nil {
		t.Fatal(err)
	}
	w := testWindows
	w.Memory64.Size = 8 << 30
	if err := b.Assign(w); err == nil || !strings.Contains(err.Error(), "window of PCI function 00:02.0 (1b36:000c) needs 0x400000000 bytes") {
		t.Errorf("a BAR of 16 GiB in a window of 8: %v", err)
	}
	w.Memory64.Size = 32 << 30
	if err := b.Assign(w); err != nil {
		t.Fatal(err)
	}
	if got := b.bridges[1].windows().memory.Size; got != 65<<20 {
		t.Errorf("32-bit window of %#x bytes", got)
	}
}
