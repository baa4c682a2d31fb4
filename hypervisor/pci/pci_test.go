package pci

import (
	"encoding/binary"
	"testing"
)

func read(f func(int, []byte), at, n int) uint64 {
	var p [8]byte
	f(at, p[:n])
	return binary.LittleEndian.Uint64(p[:])
}

func write(f func(int, []byte), at, n int, v uint64) {
	var p [8]byte
	binary.LittleEndian.PutUint64(p[:], v)
	f(at, p[:n])
}

func TestWidthsAndMasks(t *testing.T) {
	f, _ := testFunction(t, newController(), true)
	for _, c := range []struct {
		name      string
		at, n     int
		value     uint64
		readAt    int
		readN     int
		want      uint64
		prepareST uint16
	}{
		{"identity is read-only", 0, 4, 0xffffffff, 0, 4, 0x10411af4, 0},
		{"command keeps its writable bits", 4, 2, 0xffff, 4, 2, 0x0547, 0},
		{"a wide write reaches both registers", 2, 8, 0xffffffffffffffff, 4, 4, 0x0018_0547, 0xf908},
		{"a write straddling into status clears only what it touches", 5, 2, 0xff_00, 6, 2, 0xf818 &^ 0xff, 0x0008},
		{"writing one clears", 6, 2, 0x4000, 6, 2, 0xb918, 0xf908},
		{"writing zero keeps", 6, 2, 0, 6, 2, 0xf918, 0xf908},
		{"IO BAR sizes to 64", 0x10, 4, 0xffffffff, 0x10, 4, 0xffc1, 0},
		{"memory BAR sizes to 4096", 0x14, 4, 0xffffffff, 0x14, 4, 0xfffff000, 0},
		{"64-bit BAR sizes to 16384", 0x20, 8, 0xffffffffffffffff, 0x20, 8, 0xffffffffffffc00c, 0},
		{"absent BAR is zero", 0x1c, 4, 0xffffffff, 0x1c, 4, 0, 0},
		{"absent ROM is zero", 0x30, 4, 0xffffffff, 0x30, 4, 0, 0},
	} {
		f.SetUint16(regCommand, 0)
		f.SetUint16(regStatus, c.prepareST|statusCaps)
		if c.name == "a write straddling into status clears only what it touches" {
			c.want = 0x0018
		}
		f.mu.Lock()
		f.asserted = c.prepareST&statusINTx != 0
		f.mu.Unlock()
		write(f.ConfigWrite, c.at, c.n, c.value)
		if got := read(f.ConfigRead, c.readAt, c.readN); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	if got := read(f.ConfigRead, 0xff, 4); got != 0 {
		t.Errorf("express function beyond 256: %#x, want 0 bytes", got)
	}
	conventional, _ := testFunction(t, newController(), false)
	if got := read(conventional.ConfigRead, 0x100, 4); got != 0xffffffff {
		t.Errorf("conventional function beyond 256: %#x", got)
	}
	if got := read(f.ConfigRead, 4094, 8); got != 0xffffffffffff0000 {
		t.Errorf("read over the end: %#x", got)
	}
}

func TestCapabilityList(t *testing.T) {
	f, _ := testFunction(t, newController(), true)
	f.AddExtendedCapability(0x000d, 1, make([]byte, 12), nil)
	f.AddExtendedCapability(0x0003, 1, make([]byte, 8), nil)
	var ids []byte
	for at := int(f.Uint8(regCapPointer)); at != 0; at = int(f.Uint8(at + 1)) {
		ids = append(ids, f.Uint8(at))
		if len(ids) > 48 {
			t.Fatal("capability list does not end")
		}
	}
	if string(ids) != "\x11\x10\x01\x09" {
		t.Errorf("capabilities % x", ids)
	}
	if e := f.Uint32(0x100); e != 0x1101000d || f.Uint32(0x110) != 0x00010003 {
		t.Errorf("extended capabilities %#x, %#x", e, f.Uint32(0x110))
	}
}

func TestHooks(t *testing.T) {
	f, _ := testFunction(t, newController(), true)
	at := f.AddVendorCapability(make([]byte, 9), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	var wrote, asked []int
	f.OnWrite(at+4, 4, func(o, n int) { wrote = append(wrote, o-at, n) })
	f.OnRead(at+4, 4, func(o, n int) { asked = append(asked, o-at); f.SetUint32(at+4, 0x12345678) })
	write(f.ConfigWrite, at+3, 1, 1)
	write(f.ConfigWrite, at+3, 2, 1)
	write(f.ConfigWrite, at+8, 2, 1)
	if len(wrote) != 2 || wrote[0] != 3 || wrote[1] != 2 {
		t.Errorf("writes seen: %v", wrote)
	}
	if got := read(f.ConfigRead, at+6, 4); got&0xffff != 0x1234 || len(asked) != 1 {
		t.Errorf("read %#x after hooks %v", got, asked)
	}
}

func TestINTx(t *testing.T) {
	b := newBoard(t)
	f, _ := testFunction(t, b.controller, true)
	g, _ := testFunction(t, b.controller, true)
	b.Add(Address{Slot: 3}, f)
	b.Add(Address{Slot: 11}, g) // the same PIRQ
	gsi := uint32(FirstPIRQGSI + Q35PIRQ(3, 1))
	f.SetINTx(true)
	g.SetINTx(true)
	f.SetINTx(false)
	if !b.controller.level(gsi) {
		t.Error("a shared line went low while one function drives it")
	}
	write(g.ConfigWrite, 4, 2, commandINTxDisable)
	if b.controller.level(gsi) || g.Uint16(regStatus)&statusINTx == 0 {
		t.Error("INTx disable: line must be low and status still show the interrupt")
	}
	write(g.ConfigWrite, 4, 2, 0)
	if !b.controller.level(gsi) {
		t.Error("INTx enable does not raise the line again")
	}
	if n := testing.AllocsPerRun(100, func() { g.SetINTx(false); g.SetINTx(true) }); n != 0 {
		t.Errorf("SetINTx allocates %v times", n)
	}
}

func TestFirstPorts(t *testing.T) {
	b := newBoard(t)
	reset := &ram{}
	c := NewConfigPorts(b.Root, reset)
	write(portAccess(c.Write), 0, 4, 0x80000000)
	write(portAccess(c.Write), 1, 1, 6)
	if reset.data[0] != 6 {
		t.Error("a byte written to CF9 did not reach the reset register")
	}
	if got := read(portAccess(c.Read), 4, 4); got != 0x29c08086 {
		t.Errorf("host bridge: %#x", got)
	}
	if got := read(portAccess(c.Read), 6, 2); got != 0x29c0 {
		t.Errorf("device at CFE: %#x", got)
	}
	if got := read(portAccess(c.Read), 0, 4); got != 0x80000000 {
		t.Errorf("address: %#x", got)
	}
	write(portAccess(c.Write), 0, 4, 0x00000000)
	if got := read(portAccess(c.Read), 4, 4); got != 0xffffffff {
		t.Errorf("disabled mechanism: %#x", got)
	}
	if got := read(portAccess(c.Read), 7, 8); got != 0xffffffffffffffff {
		t.Errorf("straddling the end: %#x", got)
	}
}

func portAccess(f func(uint64, []byte)) func(int, []byte) {
	return func(at int, p []byte) { f(uint64(at), p) }
}

func TestSaveRestore(t *testing.T) {
	b := newBoard(t)
	f, _ := testFunction(t, b.controller, true)
	b.Add(Address{Slot: 3}, f)
	if err := b.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	write(f.ConfigWrite, 4, 2, commandMemory|commandMaster)
	write(f.ConfigWrite, f.msix.at+2, 2, msixEnable)
	var entry [16]byte
	binary.LittleEndian.PutUint64(entry[:], 0xfee0_1000)
	binary.LittleEndian.PutUint32(entry[8:], 0x41)
	b.memory.Write(f.decoders[1].at+16, entry[:])
	f.SetINTx(true)
	f.msix.Vector(0).Signal() // masked: it waits
	acts := 0
	state, err := f.Save()
	if err != nil {
		t.Fatal(err)
	}

	c := newBoard(t)
	g, m := testFunction(t, c.controller, true)
	g.OnAct(0, 4096, func(int, int) { acts++ })
	c.Add(Address{Slot: 3}, g)
	if err := g.Restore(state); err != nil {
		t.Fatal(err)
	}
	if acts != 0 {
		t.Error("a restore repeated what a write does")
	}
	if !m.Vector(0).Pending() || m.Vector(2).Pending() {
		t.Error("the vector that was pending is not, or another is")
	}
	if again, _ := g.Save(); string(again) != string(state) {
		t.Errorf("saved again differs:\n%s\n%s", state, again)
	}
	if g.decoders[1].at != f.decoders[1].at || !g.decoders[1].mapped {
		t.Error("BAR not decoded where it was")
	}
	if v := m.vectors[1].msi.(*fakeMSI); v.masked || v.address != 0xfee0_1000 || v.data != 0x41 || !m.Enabled() {
		t.Errorf("vector 1 after restore: %+v", v)
	}
	if !c.controller.level(uint32(FirstPIRQGSI + Q35PIRQ(3, 1))) {
		t.Error("pin not restored")
	}
	for name, bad := range map[string]string{
		"not JSON": "{", "newer": `{"version":2}`, "other": `{"version":1,"identity":1}`,
		"short": `{"version":1,"identity":272702196,"config":""}`,
	} {
		if err := g.Restore([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAccessesDoNotAllocate: configuration accesses and MSI-X masking are vCPU exits.
func TestAccessesDoNotAllocate(t *testing.T) {
	b := newBoard(t)
	f, m := testFunction(t, b.controller, true)
	if err := b.Add(Address{Slot: 3}, f); err != nil {
		t.Fatal(err)
	}
	if err := b.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	write(f.ConfigWrite, 4, 2, commandMemory|commandMaster)
	write(f.ConfigWrite, m.at+2, 2, msixEnable)
	c := NewConfigPorts(b.Root, nil)
	address, data, mask := make([]byte, 4), make([]byte, 2), make([]byte, 4)
	binary.LittleEndian.PutUint32(address, configEnable|3<<11|regCommand)
	bar := f.decoders[1].at
	if n := testing.AllocsPerRun(100, func() {
		c.Write(0, address)
		c.Read(4, data)
		c.Write(4, data)
		b.memory.Read(testWindows.ECAM+(3<<15), data)
		mask[0] ^= msixMasked
		b.memory.Write(bar+12, mask)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
