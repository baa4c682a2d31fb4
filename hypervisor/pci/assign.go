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
	IO       Range
	PMBase   uint16 // port of the ACPI block
}

// What an empty or small root port gets, so that a device can be plugged there later.
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
	var top []claim
	for _, b := range r.sortedBridges() {
		claims, err := b.prepare()
		if err != nil {
			return err
		}
		top = append(top, claims...)
	}
	for _, f := range r.top.all() {
		top = append(top, f.claims()...)
	}
	if err := place(top, w.Memory32, w.Memory64, w.IO); err != nil {
		return fmt.Errorf("assign PCI addresses: %w", err)
	}
	for _, f := range r.Functions() {
		r.enable(f)
	}
	return nil
}

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
// have an address.
func (b *bridge) prepare() ([]claim, error) {
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
		b.window(Memory32, byKind[Memory32], memoryWindowAlign, leastMemoryWindow, b.setMemoryWindow),
		b.window(Memory64, byKind[Memory64], memoryWindowAlign, leastPrefetchWindow, b.setPrefetchWindow),
	}
	if len(byKind[IO]) > 0 {
		windows = append(windows, b.window(IO, byKind[IO], ioWindowAlign, ioWindowAlign, b.setIOWindow))
	}
	return windows, nil
}

// window makes the claim for one window: as large and as aligned as its contents need.
func (b *bridge) window(kind BARKind, contents []claim, grain, least uint64, set func(Range)) claim {
	size, align := uint64(0), grain
	for _, c := range contents {
		size += c.size
		align = max(align, c.align)
	}
	// Sorted by size, powers of two leave no gaps, so the sum is enough.
	size = max(least, (size+grain-1)&^(grain-1))
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

// place gives every claim an address in its range, largest first. What wants 64-bit memory goes below 4 GiB when there
// is none.
func place(claims []claim, memory32, memory64, io Range) error {
	sort.SliceStable(claims, func(i, j int) bool { return claims[i].align > claims[j].align })
	if memory64.Size == 0 || memory64 == memory32 {
		memory64 = Range{}
	}
	next := [3]uint64{memory32.Base, memory64.Base, io.Base}
	ranges := [3]Range{memory32, memory64, io}
	for _, c := range claims {
		kind := c.kind
		if kind == Memory64 && memory64.Size == 0 {
			kind = Memory32
		}
		base := (next[kind] + c.align - 1) &^ (c.align - 1)
		if !ranges[kind].contains(base, c.size) {
			return fmt.Errorf("%s needs %#x bytes, and the %#x bytes at %#x are full", c.what, c.size, ranges[kind].Size, ranges[kind].Base)
		}
		next[kind] = base + c.size
		if err := c.assigned(base); err != nil {
			return err
		}
	}
	return nil
}

// enable sets COMMAND and the interrupt line register and lets the BARs be decoded.
func (r *Root) enable(f *Function) {
	command := uint16(commandIO | commandMemory)
	if f.bridge != nil {
		command |= commandMaster
	}
	before := f.Uint16(regCommand)
	f.SetUint16(regCommand, command)
	if f.pin != 0 {
		f.SetUint8(regIntLine, r.interruptLine(f))
	}
	f.decodeCommand(before)
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

// WindowsFor lays the 64-bit window above the end of RAM for a guest of physBits address bits: as large as RAM rounded
// up to a power of two, at least 32 GiB, aligned to its size, and bounded by the address bits. It is empty when none fits.
func WindowsFor(endOfRAM uint64, physBits int) Range {
	size := uint64(32) << 30
	if over := uint64(1) << bits.Len64(endOfRAM-1); over > size {
		size = over
	}
	limit := uint64(1) << physBits
	for ; size >= 1<<30; size >>= 1 {
		base := (max(endOfRAM, 4<<30) + size - 1) &^ (size - 1)
		if base < limit && size <= limit-base {
			return Range{base, size}
		}
	}
	return Range{}
}
