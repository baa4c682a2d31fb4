package vfio

import (
	"errors"
	"slices"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/pci"
)

// bar is one BAR: what can be mapped is the guest's directly while the guest decodes it, the rest goes through the kernel.
type bar struct {
	f     *Function
	index int
	size  uint64
	areas []Area // to map, whole pages
	slots Slots

	mapped []mapping
}

type mapping struct {
	host []byte
	slot int
	at   uint64
	peer bool // other devices reach it
}

func (f *Function) addBAR(b pci.BAR, r Region, slots Slots) {
	nb := &bar{f: f, index: b.Index, size: b.Size, slots: slots}
	if b.Kind != pci.IO {
		for _, a := range r.Mmap {
			if a.Size >= memory.PageSize && a.Offset%memory.PageSize == 0 {
				nb.areas = append(nb.areas, Area{a.Offset, a.Size &^ (memory.PageSize - 1)})
			}
		}
	}
	b.Device, b.Mapped, b.Unmapped = nb, nb.attach, nb.detach
	f.bars = append(f.bars, nb)
	f.pci.AddBAR(b)
}

// trap keeps the pages of some bytes of a BAR out of what is mapped.
func (f *Function) trap(index int, offset, size uint64) {
	first := offset &^ (memory.PageSize - 1)
	end := (offset + size + memory.PageSize - 1) &^ (memory.PageSize - 1)
	for _, b := range f.bars {
		if b.index != index {
			continue
		}
		var left []Area
		for _, a := range b.areas {
			if a.Offset < first {
				left = append(left, Area{a.Offset, min(a.Size, first-a.Offset)})
			}
			if last := a.Offset + a.Size; last > end {
				from := max(a.Offset, end)
				left = append(left, Area{from, last - from})
			}
		}
		b.areas = left
	}
}

// attach is the guest decoding the BAR at base. What cannot be mapped works too, at an exit for each access.
func (b *bar) attach(base uint64) {
	for _, a := range b.areas {
		host, err := b.f.dev.Map(b.index, a)
		if err != nil {
			b.f.logf("%s: cannot map BAR %d: %v", b.f.name, b.index, err)
			continue
		}
		slot, err := b.slots.Add(base+a.Offset, host)
		if err != nil {
			b.f.logf("%s: cannot map BAR %d at %#x: %v", b.f.name, b.index, base, err)
			b.unmap(host)
			continue
		}
		m := mapping{host: host, slot: slot, at: base + a.Offset}
		m.peer = b.f.showPeers(b.index, m.at, host)
		b.mapped = append(b.mapped, m)
	}
}

// showPeers lets other devices of the guest reach a piece of a BAR, by DMA between them. Not all hardware can; one warning
// for each function says so.
func (f *Function) showPeers(index int, gpa uint64, host []byte) bool {
	if f.peers == nil {
		return false
	}
	err := f.peers.MapBAR(gpa, host)
	if err == nil {
		return true
	}
	if !f.lonely.Swap(true) {
		f.log("warning: %s: other devices cannot reach its BAR %d at %#x to %#x by DMA: %v", f.name, index, gpa, gpa+uint64(len(host))-1, err)
	}
	return false
}

// detach is the guest not decoding it any more.
func (b *bar) detach(uint64) {
	if err := b.close(); err != nil {
		b.f.logf("%s: cannot unmap BAR %d: %v", b.f.name, b.index, err)
	}
}

func (b *bar) close() error {
	var errs []error
	for _, m := range b.mapped {
		if m.peer { // before the memory goes: the IOMMU would keep on to what is there
			errs = append(errs, b.f.peers.UnmapBAR(m.at))
		}
		err := b.slots.Remove(m.slot)
		errs = append(errs, err)
		if err == nil { // else the guest still has it
			errs = append(errs, b.f.dev.Unmap(m.host))
		}
	}
	b.mapped = nil
	return errors.Join(errs...)
}

func (b *bar) unmap(host []byte) {
	if err := b.f.dev.Unmap(host); err != nil {
		b.f.logf("%s: cannot unmap BAR %d: %v", b.f.name, b.index, err)
	}
}

// Read implements bus.Device.
func (b *bar) Read(offset uint64, p []byte) { b.f.dev.Read(b.index, p, offset) }

// Write implements bus.Device.
func (b *bar) Write(offset uint64, p []byte) { b.f.dev.Write(b.index, slices.Clip(p), offset) }
