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

func TestWindowsFor(t *testing.T) {
	for _, c := range []struct {
		end  uint64
		bits int
		want Range
	}{
		{4 << 30, 40, Range{32 << 30, 32 << 30}},
		{100 << 30, 46, Range{128 << 30, 128 << 30}},
		{4 << 30, 36, Range{32 << 30, 32 << 30}},
		{40 << 30, 36, Range{48 << 30, 16 << 30}},
		{64 << 30, 36, Range{}},
	} {
		if got := WindowsFor(c.end, c.bits); got != c.want {
			t.Errorf("WindowsFor(%#x, %d) = %#x, want %#x", c.end, c.bits, got, c.want)
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
