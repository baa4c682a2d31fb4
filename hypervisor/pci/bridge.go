package pci

import "encoding/binary"

// bridge is the type 1 half of a function: its bus numbers, what is behind it, and the windows of addresses it forwards.
type bridge struct {
	f       *Function
	index   uint8 // controller index
	bus     pciBus
	reserve uint64 // bytes of the 32-bit memory window at least

	last windows // as of the last windowsChanged; the root's lock guards it
}

// windows is what the guest programmed (PCI-to-PCI Bridge 1.2, 3.2.5.6 to 3.2.5.10). A range with Size 0 forwards
// nothing.
type windows struct {
	io, memory, prefetch Range
}

// newBridge returns a function with a type 1 header: 32-bit I/O and 64-bit prefetchable windows.
func newBridge(id Identity, index uint8) *bridge {
	f := newHeader(id)
	b := &bridge{f: f, index: index}
	f.bridge = b
	s := &f.space
	s.data[regHeaderType] = headerBridge
	for _, at := range []int{regPrimaryBus, regSecondaryBus, regSubordinate} {
		s.writable[at] = 0xff
	}
	for _, at := range []int{regIOBase, regIOLimit} {
		s.data[at], s.writable[at] = 0x01, 0xf0
	}
	binary.LittleEndian.PutUint16(s.w1c[regSecStatus:], statusErrors)
	for _, at := range []int{regMemoryBase, regMemoryLimit, regPrefBase, regPrefLimit} {
		binary.LittleEndian.PutUint16(s.writable[at:], 0xfff0)
	}
	s.data[regPrefBase], s.data[regPrefLimit] = 0x01, 0x01
	for at := regPrefBaseHi; at < regIOLimitHi+2; at++ {
		s.writable[at] = 0xff
	}
	// Parity response, SERR#, ISA, VGA enables, master abort mode and secondary bus reset are kept as written.
	s.writable[regBridgeCtl] = 0x7f
	b.closeWindows()
	f.OnWrite(regBridgeCtl, 1, func(int, int) { b.secondaryReset() })
	return b
}

// closeWindows leaves every window with its base above its limit.
func (b *bridge) closeWindows() {
	s := &b.f.space
	s.data[regIOBase], s.data[regIOLimit] = 0xf1, 0x01
	s.put16(regMemoryBase, 0xfff0)
	s.put16(regMemoryLimit, 0)
	s.put16(regPrefBase, 0xfff1)
	s.put16(regPrefLimit, 0x0001)
}

// numbers returns the secondary and subordinate bus numbers.
func (b *bridge) numbers() (secondary, subordinate uint8) {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	return b.f.space.data[regSecondaryBus], b.f.space.data[regSubordinate]
}

const bridgeCtlReset = 1 << 6

// secondaryReset resets what is behind the bridge when the guest sets the bit (PCI-to-PCI Bridge 1.2, 3.2.5.18).
func (b *bridge) secondaryReset() {
	if b.f.Uint8(regBridgeCtl)&bridgeCtlReset == 0 {
		return
	}
	for _, f := range b.bus.all() {
		f.Reset()
	}
}

// windows reads the registers.
func (b *bridge) windows() windows {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	s := &b.f.space
	command := s.u16(regCommand)
	var w windows
	if command&commandIO != 0 {
		w.io = span(uint64(s.data[regIOBase]&0xf0)<<8|uint64(s.u16(regIOBaseHi))<<16,
			uint64(s.data[regIOLimit]&0xf0)<<8|uint64(s.u16(regIOLimitHi))<<16, 0xfff)
	}
	if command&commandMemory != 0 {
		w.memory = span(uint64(s.u16(regMemoryBase)&0xfff0)<<16, uint64(s.u16(regMemoryLimit)&0xfff0)<<16, 0xfffff)
		w.prefetch = span(uint64(s.u16(regPrefBase)&0xfff0)<<16|uint64(s.u32(regPrefBaseHi))<<32,
			uint64(s.u16(regPrefLimit)&0xfff0)<<16|uint64(s.u32(regPrefLimitHi))<<32, 0xfffff)
	}
	return w
}

// span is the window from base to limit, whose low bits, fill, count as ones.
func span(base, limit, fill uint64) Range {
	limit |= fill
	if limit < base || limit-base == ^uint64(0) {
		return Range{}
	}
	return Range{base, limit - base + 1}
}

// forwards reports whether a BAR at base is reachable through the bridge. The root bus, a nil bridge, forwards all.
func (b *bridge) forwards(r *bar, base uint64) bool {
	if b == nil {
		return true
	}
	w := b.windows()
	if r.Kind == IO {
		return w.io.contains(base, r.Size)
	}
	return w.memory.contains(base, r.Size) || w.prefetch.contains(base, r.Size)
}

// windowsChanged reports whether the windows are others than when it was last called. The caller holds the root's lock.
func (b *bridge) windowsChanged() bool {
	w := b.windows()
	changed := w != b.last
	b.last = w
	return changed
}
