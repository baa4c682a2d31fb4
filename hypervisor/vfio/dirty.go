package vfio

import (
	"errors"
	"fmt"

	"virtd/hypervisor/memory"
)

// dirtyLog is what a Container knows of the pages that devices write, while it is asked to.
type dirtyLog struct {
	// tells says that the IOMMU notes writes. Where not, every page that is mapped counts as written at all times.
	tells bool
	// pending has, by the address of a range of RAM, a bit for each page that the IOMMU told of and that nobody has asked for
	// yet: some kernels give, and forget, a whole range at once.
	pending map[uint64][]uint64
	scratch []uint64
}

// StartDirtyLog begins to note which pages of guest RAM devices may write; ReadDirty tells. When it does so already, nothing
// happens. It locks no guest out, and costs one bit a page of RAM.
func (c *Container) StartDirtyLog() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dirty != nil {
		return nil
	}
	tells, err := c.iommu.startDirty()
	if err != nil {
		return fmt.Errorf("let the IOMMU note what devices write: %w", err)
	}
	c.dirty = &dirtyLog{tells: tells, pending: map[uint64][]uint64{}}
	for _, r := range c.ram {
		c.dirty.add(r)
	}
	return nil
}

// StopDirtyLog ends what StartDirtyLog began. What ReadDirty has not told is forgotten.
func (c *Container) StopDirtyLog() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dirty == nil {
		return nil
	}
	tells := c.dirty.tells
	c.dirty = nil
	if !tells {
		return nil
	}
	if err := c.iommu.stopDirty(); err != nil {
		return fmt.Errorf("let the IOMMU note no more what devices write: %w", err)
	}
	return nil
}

// ReadDirty sets in bitmap the bit of each page, from guest physical address gpa on, that devices may have written since it
// was told of last: bit n of word w is page 64*w+n, as KVM_GET_DIRTY_LOG has it, and bits that are set stay so. Where the IOMMU
// does not tell, these are all pages that are mapped for devices; never are they others. gpa is at the beginning of a page,
// and bitmap has a bit for each of the pages. With an error some pages may have been told of, and are not told of again. What
// devices wrote is lost when the RAM is unmapped.
func (c *Container) ReadDirty(gpa, pages uint64, bitmap []uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.dirty == nil:
		return errors.New("nobody notes what devices write")
	case gpa%memory.PageSize != 0 || pages > (1<<64-1-gpa)/memory.PageSize:
		return fmt.Errorf("%d pages at %#x are no pages of guest memory", pages, gpa)
	case uint64(len(bitmap)) < (pages+63)/64:
		return fmt.Errorf("a bitmap of %d words has no bit for each of %d pages", len(bitmap), pages)
	}
	for _, r := range c.ram {
		from, to := max(gpa, r.GPA), min(gpa+pages*memory.PageSize, r.GPA+r.Size)
		if from >= to {
			continue
		}
		first, n := (from-gpa)/memory.PageSize, (to-from)/memory.PageSize
		if !c.dirty.tells {
			setBits(bitmap, first, n)
			continue
		}
		if err := c.readDirty(r); err != nil {
			return fmt.Errorf("ask the IOMMU what devices wrote of guest RAM at %#x: %w", r.GPA, err)
		}
		moveBits(bitmap, first, c.dirty.pending[r.GPA], (from-r.GPA)/memory.PageSize, n)
	}
	return nil
}

// readDirty takes over what the IOMMU has noted of a range. The caller holds mu.
func (c *Container) readDirty(r memory.Range) error {
	pending := c.dirty.pending[r.GPA]
	scratch := c.dirty.scratch[:len(pending)]
	clear(scratch)
	if err := c.iommu.readDirty(r, scratch); err != nil {
		return err
	}
	for i, w := range scratch {
		pending[i] |= w
	}
	return nil
}

// add makes room for the pages of a range of RAM that is mapped.
func (l *dirtyLog) add(r memory.Range) {
	if l == nil || !l.tells {
		return
	}
	words := (r.Size/memory.PageSize + 63) / 64
	l.pending[r.GPA] = make([]uint64, words)
	if uint64(len(l.scratch)) < words {
		l.scratch = make([]uint64, words)
	}
}

// setBits sets n bits from one on.
func setBits(bits []uint64, from, n uint64) {
	for n > 0 {
		k := min(64-from%64, n)
		bits[from/64] |= lowBits(k) << (from % 64)
		from, n = from+k, n-k
	}
}

// moveBits sets those of n bits from one on that are set somewhere else, and clears them there.
func moveBits(to []uint64, at uint64, bits []uint64, from, n uint64) {
	for n > 0 {
		k := min(64-at%64, 64-from%64, n)
		w := bits[from/64] & (lowBits(k) << (from % 64))
		bits[from/64] &^= w
		to[at/64] |= w >> (from % 64) << (at % 64)
		at, from, n = at+k, from+k, n-k
	}
}

// lowBits has the n lowest bits set, n from 1 to 64.
func lowBits(n uint64) uint64 { return ^uint64(0) >> (64 - n) }
