package pci

import (
	"fmt"
	"math/bits"
	"sort"
)

// Windows are the address ranges that the board gives to PCI. The DSDT's _CRS of PCI0 describes the same.
type Windows struct {
	ECAM     uint64 // base of the 256 MiB view of configuration space, 0 for none (pc)
	Memory32 Range  // below 4 GiB
	Memory64 Range  // above RAM; Size 0 for none
	Share    bool   // root ports share half of Memory64, for devices that come later
	IO       Range
	PMBase   uint16 // port of the ACPI block
}

// What an empty or small root port gets at least, so that a device can be plugged there later.
const (
	leastMemoryWindow   = 2 << 20
	leastPrefetchWindow = 2 << 20
	memoryWindowAlign   = 1 << 20
	ioWindowAlign       = 4 << 10
)

// Assign does what firmware does before a kernel boots: chipset registers, bus numbers, BARs, bridge windows, interrupt
// lines and the COMMAND bits. Bus numbers are controller indexes. The result is a pure function of the topology and w.
// Call it at power-on and after each Reset, before vCPUs run.
func (r *Root) Assign(w Windows) error {
	r.assignChipset(w)
	prefetch := uint64(leastPrefetchWindow)
	if w.Share {
		prefetch = r.share(w)
	}
	if err := place(r.wanted(prefetch), w.Memory32, w.Memory64, w.IO); err != nil {
		return fmt.Errorf("assign PCI addresses: %w", err)
	}
	for _, f := range r.Functions() {
		r.enable(f)
	}
	return nil
}

// wanted returns what the root bus has to place. A root port wants a prefetchable window of at least some bytes.
func (r *Root) wanted(prefetch uint64) []claim {
	var top []claim
	for _, b := range r.sortedBridges() {
		top = append(top, b.prepare(prefetch)...)
	}
	for _, f := range r.top.all() {
		top = append(top, f.claims()...)
	}
	return top
}

// share returns how large the prefetchable window of a root port is at least: an equal share of half of the 64-bit window, a
// power of two, as far as there is room beside what the devices need that are there.
func (r *Root) share(w Windows) uint64 {
	if w.Memory64.Size == 0 || len(r.bridges) == 0 {
		return leastPrefetchWindow
	}
	each := w.Memory64.Size / 2 / uint64(len(r.bridges))
	for each = floorPower(each); each > leastPrefetchWindow; each /= 2 {
		if _, err := layout(r.wanted(each), w.Memory32, w.Memory64, w.IO); err == nil {
			return each
		}
	}
	return leastPrefetchWindow
}

// floorPower returns the largest power of two that is not above n, which is not 0.
func floorPower(n uint64) uint64 { return 1 << (bits.Len64(n) - 1) }

// sortedBridges returns the root ports in index order.
func (r *Root) sortedBridges() []*bridge {
	var all []*bridge
	for _, b := range r.bridges {
		all = append(all, b)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].index < all[j].index })
	return all
}

// claim is a range that wants an address.
type claim struct {
	kind     BARKind
	size     uint64
	align    uint64
	assigned func(base uint64) error
	what     string
}

// claims returns the BARs of a function. A 64-bit BAR that is not prefetchable may sit in a 32-bit window only, behind a
// bridge; on the root bus too, for simplicity.
func (f *Function) claims() []claim {
	var out []claim
	for _, b := range f.bars {
		if b == nil {
			continue
		}
		kind := b.Kind
		if kind == Memory64 && !b.Prefetchable {
			kind = Memory32
		}
		out = append(out, claim{kind, b.Size, b.Size, func(base uint64) error {
			f.setBAR(b, base)
			return nil
		}, fmt.Sprintf("%s of %v", b.d.name, f)})
	}
	if f.rom != nil {
		out = append(out, claim{Memory32, f.rom.Size, f.rom.Size, func(base uint64) error {
			f.SetUint32(regROM, uint32(base)) // who wants to read it switches it on
			return nil
		}, fmt.Sprintf("%s of %v", f.rom.d.name, f)})
	}
	return out
}

func (f *Function) setBAR(b *bar, base uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := regBAR0 + 4*b.Index
	f.space.put32(at, uint32(base)|uint32(f.space.data[at]&^f.space.writable[at]))
	if b.Kind == Memory64 {
		f.space.put32(at+4, uint32(base>>32))
	}
}

// prepare sets the bus numbers and returns the windows that the bridge wants, which place what is behind it when they
// have an address. The prefetchable one has at least some bytes.
func (b *bridge) prepare(prefetch uint64) []claim {
	f := b.f
	f.SetUint8(regPrimaryBus, f.address.Bus)
	f.SetUint8(regSecondaryBus, b.index)
	f.SetUint8(regSubordinate, b.index)
	var byKind [3][]claim
	for _, child := range b.bus.all() {
		for _, c := range child.claims() {
			byKind[c.kind] = append(byKind[c.kind], c)
		}
	}
	windows := []claim{
		b.window(Memory32, byKind[Memory32], memoryWindowAlign, max(leastMemoryWindow, b.reserve), b.setMemoryWindow),
		b.window(Memory64, byKind[Memory64], memoryWindowAlign, prefetch, b.setPrefetchWindow),
	}
	if len(byKind[IO]) > 0 {
		windows = append(windows, b.window(IO, byKind[IO], ioWindowAlign, ioWindowAlign, b.setIOWindow))
	}
	return windows
}

// window makes the claim for one window: as large and as aligned as its contents need.
func (b *bridge) window(kind BARKind, contents []claim, grain, least uint64, set func(Range)) claim {
	size, align := uint64(0), grain
	for _, c := range contents {
		size += c.size
		align = max(align, c.align)
	}
	// Sorted by size, powers of two leave no gaps, so the sum is enough.
	size = (size + grain - 1) &^ (grain - 1)
	if size < least {
		if size = least; least > leastPrefetchWindow { // what comes later may be as large as all of it, and is aligned to its size
			align = max(align, floorPower(least))
		}
	}
	return claim{kind, size, align, func(base uint64) error {
		r := Range{base, size}
		set(r)
		return place(contents, r, r, r)
	}, fmt.Sprintf("window of %v", b.f)}
}

func (b *bridge) setMemoryWindow(r Range) {
	b.f.SetUint16(regMemoryBase, uint16(r.Base>>16))
	b.f.SetUint16(regMemoryLimit, uint16(r.Last()>>16)&0xfff0)
}

func (b *bridge) setPrefetchWindow(r Range) {
	b.f.SetUint16(regPrefBase, uint16(r.Base>>16)|1)
	b.f.SetUint16(regPrefLimit, uint16(r.Last()>>16)&0xfff0|1)
	b.f.SetUint32(regPrefBaseHi, uint32(r.Base>>32))
	b.f.SetUint32(regPrefLimitHi, uint32(r.Last()>>32))
}

func (b *bridge) setIOWindow(r Range) {
	b.f.SetUint8(regIOBase, uint8(r.Base>>8)&0xf0|1)
	b.f.SetUint8(regIOLimit, uint8(r.Last()>>8)&0xf0|1)
	b.f.SetUint16(regIOBaseHi, 0)
	b.f.SetUint16(regIOLimitHi, 0)
}

// place gives every claim an address in its range.
func place(claims []claim, memory32, memory64, io Range) error {
	bases, err := layout(claims, memory32, memory64, io)
	if err != nil {
		return err
	}
	for i, c := range claims {
		if err := c.assigned(bases[i]); err != nil {
			return err
		}
	}
	return nil
}

// layout sorts claims, those with the largest alignment first, and returns their addresses. What wants 64-bit memory goes below
// 4 GiB when there is none.
func layout(claims []claim, memory32, memory64, io Range) ([]uint64, error) {
	sort.SliceStable(claims, func(i, j int) bool { return claims[i].align > claims[j].align })
	if memory64.Size == 0 || memory64 == memory32 {
		memory64 = Range{}
	}
	next := [3]uint64{memory32.Base, memory64.Base, io.Base}
	ranges := [3]Range{memory32, memory64, io}
	bases := make([]uint64, len(claims))
	for i, c := range claims {
		kind := c.kind
		if kind == Memory64 && memory64.Size == 0 {
			kind = Memory32
		}
		base := (next[kind] + c.align - 1) &^ (c.align - 1)
		if !ranges[kind].contains(base, c.size) {
			return nil, fmt.Errorf("%s needs %#x bytes, and the %#x bytes at %#x are full", c.what, c.size, ranges[kind].Size, ranges[kind].Base)
		}
		next[kind] = base + c.size
		bases[i] = base
	}
	return bases, nil
}

// enable sets COMMAND and the interrupt line register and lets the BARs be decoded.
func (r *Root) enable(f *Function) {
	command := uint16(commandIO | commandMemory)
	if f.bridge != nil {
		command |= commandMaster
	}
	f.mu.Lock()
	before := f.gates()
	f.space.put16(regCommand, command)
	f.mu.Unlock()
	if f.pin != 0 {
		f.SetUint8(regIntLine, r.interruptLine(f))
	}
	f.gatesChanged(before)
}

// interruptLine is what firmware leaves in the interrupt line register: the ISA interrupt of the pin's input.
func (r *Root) interruptLine(f *Function) uint8 {
	p, ok := r.router.(*pirqRouter)
	if !ok {
		return 0
	}
	slot := f.address.Slot
	if f.parent != nil {
		slot = f.parent.f.address.Slot
	}
	return p.f.Uint8(p.regs[p.pirqOf(slot, f.pin)]) & pirqMask
}

// assignChipset programs the registers that only firmware writes.
func (r *Root) assignChipset(w Windows) {
	for _, f := range r.Functions() {
		if f.identity.Vendor != 0x8086 || f.identity.SubVendor != SubsystemVendor || f.parent != nil {
			continue
		}
		switch f.identity.Device {
		case 0x29c0:
			if w.ECAM != 0 {
				f.SetUint32(mchPCIEXBAR, uint32(w.ECAM)|mchPCIEXBAREnable)
				f.SetUint8(mchPCIEXBAR+4, uint8(w.ECAM>>32)&0x0f)
			}
		case 0x2918:
			f.SetUint16(lpcPMBASE, w.PMBase|barIO)
			f.SetUint8(lpcACPICntl, lpcACPIEnable)
		case 0x7113:
			f.SetUint16(piixPMBA, w.PMBase|barIO)
			f.SetUint8(piixPMRegMisc, piixPMIOSE)
			f.SetUint8(regIntLine, piixSCILine)
		}
	}
	if p, ok := r.router.(*pirqRouter); ok {
		for i, reg := range p.regs {
			p.f.SetUint8(reg, PCPIRQLines[i%len(PCPIRQLines)])
			p.steer(i)
		}
	}
}

// WindowWithin finds the lowest place in a range for a window of size bytes, a power of two, aligned to its size, not below 4 GiB
// or from, and below limit. It is empty when there is none.
func WindowWithin(within Range, from, limit, size uint64) Range {
	base := (max(from, within.Base, 4<<30) + size - 1) &^ (size - 1)
	end := min(limit, within.Base+within.Size)
	if base >= end || size > end-base {
		return Range{}
	}
	return Range{base, size}
}
