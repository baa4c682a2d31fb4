package bus

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
)

// Device answers accesses to a range it was added for. Accesses come from several vCPU threads at once: the device locks
// what it must. len(p) is 1, 2, 4 or 8, and offset+len(p) may exceed the range by a straddling access: the device
// answers such bytes as it likes, but never panics.
type Device interface {
	// Read fills p, little-endian, with the register at offset from the range's base.
	Read(offset uint64, p []byte)
	// Write stores p, little-endian, at offset.
	Write(offset uint64, p []byte)
}

type entry struct {
	base, size uint64
	dev        Device
}

// Space is an address space. The zero value is empty and ready. All methods are safe for concurrent use.
type Space struct {
	mu    sync.Mutex // serialises changes
	table atomic.Pointer[[]entry]
}

// Add claims size bytes from base for dev. It fails when the range is empty, wraps, or overlaps another.
func (s *Space) Add(base, size uint64, dev Device) error {
	if size == 0 || base+(size-1) < base {
		return fmt.Errorf("claim %#x bytes at %#x: not a range", size, base)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.entries()
	for _, e := range old {
		if base <= e.base+(e.size-1) && e.base <= base+(size-1) {
			return fmt.Errorf("claim %#x bytes at %#x: overlaps %#x bytes at %#x", size, base, e.size, e.base)
		}
	}
	table := make([]entry, 0, len(old)+1)
	table = append(append(table, old...), entry{base, size, dev})
	sort.Slice(table, func(i, j int) bool { return table[i].base < table[j].base })
	s.table.Store(&table)
	return nil
}

// Remove gives back the range that was added at base. Removing what is not there does nothing.
func (s *Space) Remove(base uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.entries()
	table := make([]entry, 0, len(old))
	for _, e := range old {
		if e.base != base {
			table = append(table, e)
		}
	}
	s.table.Store(&table)
}

func (s *Space) entries() []entry {
	if t := s.table.Load(); t != nil {
		return *t
	}
	return nil
}

// find returns the entry that holds addr, or nil.
func (s *Space) find(addr uint64) *entry {
	table := s.entries()
	lo, hi := 0, len(table)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if e := &table[mid]; addr < e.base {
			hi = mid
		} else if addr-e.base < e.size {
			return e
		} else {
			lo = mid + 1
		}
	}
	return nil
}

// Read fills p from the device at addr and reports whether one is there; without one p is all ones.
func (s *Space) Read(addr uint64, p []byte) bool {
	if e := s.find(addr); e != nil {
		e.dev.Read(addr-e.base, p)
		return true
	}
	for i := range p {
		p[i] = 0xff
	}
	return false
}

// Write hands p to the device at addr and reports whether one is there.
func (s *Space) Write(addr uint64, p []byte) bool {
	if e := s.find(addr); e != nil {
		e.dev.Write(addr-e.base, p)
		return true
	}
	return false
}
