package pci

import (
	"fmt"
	"math"
	"math/bits"

	"virtd/hypervisor/bus"
)

// BARKind is the address space and width of a base address register.
type BARKind uint8

// Kinds of BAR (PCI 3.0, 6.2.5.1).
const (
	Memory32 BARKind = iota
	Memory64         // takes the next index too
	IO
)

// BAR describes a base address register.
type BAR struct {
	Index        int // 0 to 5
	Kind         BARKind
	Prefetchable bool
	Size         uint64 // bytes, a power of two; at least 16 for memory, 4 and at most 256 for IO
	// Device answers accesses by offset in the BAR. nil reads zero and ignores writes.
	Device bus.Device
	// Mapped and Unmapped tell when the guest can reach the BAR, at which guest physical address or port, and when no
	// longer. They come in pairs, one at a time. A guest that sizes BARs causes many such pairs in a row: bind
	// doorbells only while a driver is active. Either may be nil.
	Mapped, Unmapped func(base uint64)
}

type bar struct {
	BAR
	d        *decoder
	overlays []overlay
}

// overlay is a part of a BAR that another device answers: the MSI-X structures.
type overlay struct {
	base, size uint64
	dev        bus.Device
}

// AddBAR adds a base address register. It panics on a shape that no guest can cause. Call it before Root.Add.
func (f *Function) AddBAR(b BAR) {
	if err := f.checkBAR(b); err != nil {
		panic("pci: " + err.Error())
	}
	nb := &bar{BAR: b}
	f.bars[b.Index] = nb
	s, at := &f.space, regBAR0+4*b.Index
	var flags byte
	mask := ^(b.Size - 1)
	switch b.Kind {
	case IO:
		flags = barIO
		mask &= 0xffff // a PC decodes 16 bits of port address
	case Memory64:
		flags = bar64
	}
	if b.Prefetchable {
		flags |= barPrefetchable
	}
	s.data[at] = flags
	for i := 0; i < 4; i++ {
		s.writable[at+i] = byte(mask >> (8 * i))
		if b.Kind == Memory64 {
			s.writable[at+4+i] = byte(mask >> (32 + 8*i))
		}
	}
	nb.d = &decoder{f: f, size: b.Size, dev: nb, io: b.Kind == IO, name: fmt.Sprintf("BAR %d", b.Index),
		onMap: b.Mapped, onUnmap: b.Unmapped, target: func() (uint64, bool) { return f.barTarget(nb) }}
	f.decoders = append(f.decoders, nb.d)
}

func (f *Function) checkBAR(b BAR) error {
	last, least := 5, uint64(16)
	if b.Kind == Memory64 {
		last = 4
	}
	if f.bridge != nil {
		last -= 4
	}
	if b.Kind == IO {
		least = 4
	}
	switch {
	case b.Index < 0 || b.Index > last:
		return fmt.Errorf("no BAR %d", b.Index)
	case bits.OnesCount64(b.Size) != 1 || b.Size < least || b.Kind == IO && b.Size > 256 || b.Kind == Memory32 && b.Size > 1<<31:
		return fmt.Errorf("BAR %d cannot be %#x bytes", b.Index, b.Size)
	case f.bars[b.Index] != nil || b.Index > 0 && f.bars[b.Index-1] != nil && f.bars[b.Index-1].Kind == Memory64:
		return fmt.Errorf("BAR %d is taken", b.Index)
	}
	return nil
}

// barBase returns the address programmed into the register. The caller holds mu.
func (f *Function) barBase(b *bar) uint64 {
	at := regBAR0 + 4*b.Index
	base := uint64(f.space.u32(at))
	if b.Kind == Memory64 {
		base |= uint64(f.space.u32(at+4)) << 32
	}
	return base &^ (b.Size - 1)
}

// barTarget says where the BAR belongs now, if its function decodes at all.
func (f *Function) barTarget(b *bar) (uint64, bool) {
	f.mu.Lock()
	base, g := f.barBase(b), f.gates()
	f.mu.Unlock()
	command, awake := g.command, g.power == 0
	on, limit := command&commandMemory != 0, uint64(math.MaxUint32)
	switch b.Kind {
	case IO:
		on, limit = command&commandIO != 0, 0xffff
	case Memory64:
		limit = math.MaxUint64
	}
	// Zero is an unassigned register, and a last byte at the very end is what sizing leaves behind.
	sane := base != 0 && base <= limit && b.Size-1 < limit-base
	return base, on && awake && sane && f.parent.forwards(b, base)
}

// Read implements bus.Device.
func (b *bar) Read(offset uint64, p []byte) {
	for i := range b.overlays {
		if o := &b.overlays[i]; offset-o.base < o.size && offset >= o.base {
			o.dev.Read(offset-o.base, p)
			return
		}
	}
	if b.Device == nil {
		clear(p)
		return
	}
	b.Device.Read(offset, p)
}

// Write implements bus.Device.
func (b *bar) Write(offset uint64, p []byte) {
	for i := range b.overlays {
		if o := &b.overlays[i]; offset-o.base < o.size && offset >= o.base {
			o.dev.Write(offset-o.base, p)
			return
		}
	}
	if b.Device != nil {
		b.Device.Write(offset, p)
	}
}
