package memory

import (
	"errors"
	"fmt"
	"sort"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// PageSize is the size in bytes of the pages that dirty tracking counts.
const PageSize = 4096

// ErrOutOfRange is returned (wrapped) for an access that leaves guest RAM. Devices answer it by resetting themselves.
var ErrOutOfRange = errors.New("outside guest RAM")

// Region is one contiguous piece of guest RAM. Its fields do not change after New.
type Region struct {
	GPA  uint64 // guest physical address of the first byte
	Size uint64 // bytes, a multiple of PageSize
	Host []byte // the mapping, Size long, outside the Go heap
	File int    // descriptor behind a shared mapping, -1 when anonymous
	Off  int64  // offset of Host in File
}

// Memory is the RAM of one guest. It is safe for concurrent use: the set of regions is fixed, bytes are the guest's own
// to race on, and dirty bits are atomic.
type Memory struct {
	regions []Region // sorted by GPA, disjoint
	dirty   atomic.Pointer[dirtyLog]
	pinned  atomic.Bool
	mapping [][]byte // what Close unmaps
	files   []int    // what Close closes
}

// FromRegions makes a Memory of mappings that the caller owns and unmaps. Regions must be page-aligned and disjoint.
func FromRegions(regions ...Region) (*Memory, error) {
	sorted := append([]Region(nil), regions...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].GPA < sorted[j].GPA })
	for i, r := range sorted {
		if r.Size == 0 || r.Size%PageSize != 0 || r.GPA%PageSize != 0 || uint64(len(r.Host)) != r.Size {
			return nil, fmt.Errorf("region at %#x of %#x bytes: not whole pages", r.GPA, r.Size)
		}
		if r.GPA+r.Size < r.GPA {
			return nil, fmt.Errorf("region at %#x of %#x bytes: wraps", r.GPA, r.Size)
		}
		if i > 0 && sorted[i-1].GPA+sorted[i-1].Size > r.GPA {
			return nil, fmt.Errorf("region at %#x overlaps the one at %#x", r.GPA, sorted[i-1].GPA)
		}
	}
	return &Memory{regions: sorted}, nil
}

// Regions returns the regions in address order. The caller must not change the slice.
func (m *Memory) Regions() []Region { return m.regions }

// Pin says whether a device of the host reaches RAM by the addresses its pages have now: Discard leaves them where they are.
func (m *Memory) Pin(yes bool) { m.pinned.Store(yes) }

// Size returns the bytes of RAM in all regions.
func (m *Memory) Size() uint64 {
	var n uint64
	for i := range m.regions {
		n += m.regions[i].Size
	}
	return n
}

// find returns the region that holds gpa, or nil.
func (m *Memory) find(gpa uint64) *Region {
	for i := range m.regions {
		if r := &m.regions[i]; gpa-r.GPA < r.Size && gpa >= r.GPA {
			return r
		}
	}
	return nil
}

// Slice returns the n bytes at gpa, which must lie in one region. The slice aliases guest memory: the guest may change it
// at any time, so a value that is checked must be copied first. Keep it no longer than the request it belongs to, and
// call MarkDirty after the host, or a device on its behalf, wrote to it.
func (m *Memory) Slice(gpa, n uint64) ([]byte, error) {
	r := m.find(gpa)
	if r == nil {
		return nil, rangeError(gpa, n)
	}
	off := gpa - r.GPA
	if n > r.Size-off {
		return nil, rangeError(gpa, n)
	}
	return r.Host[off : off+n : off+n], nil
}

// Contains reports whether the n bytes at gpa are RAM of one region.
func (m *Memory) Contains(gpa, n uint64) bool {
	r := m.find(gpa)
	return r != nil && n <= r.Size-(gpa-r.GPA)
}

// AppendIovecs appends to dst the host memory of the n bytes at gpa, one entry for each region touched, and does not
// allocate when dst has room. On error dst is returned as it came. The same rules as for Slice hold.
func (m *Memory) AppendIovecs(dst []unix.Iovec, gpa, n uint64) ([]unix.Iovec, error) {
	out := dst
	for n > 0 {
		r := m.find(gpa)
		if r == nil {
			return dst, rangeError(gpa, n)
		}
		off := gpa - r.GPA
		piece := min(n, r.Size-off)
		out = append(out, unix.Iovec{Base: &r.Host[off], Len: piece})
		n -= piece
		if gpa += piece; gpa == 0 && n > 0 {
			return dst, rangeError(gpa, n)
		}
	}
	return out, nil
}

// ReadAt copies len(p) bytes at gpa into p. The range may span adjoining regions.
func (m *Memory) ReadAt(p []byte, gpa uint64) error {
	for len(p) > 0 {
		r := m.find(gpa)
		if r == nil {
			return rangeError(gpa, uint64(len(p)))
		}
		n := copy(p, r.Host[gpa-r.GPA:])
		p, gpa = p[n:], gpa+uint64(n)
	}
	return nil
}

// WriteAt copies p to gpa and marks the pages dirty. The range may span adjoining regions; where it leaves RAM, the part
// before has been written.
func (m *Memory) WriteAt(p []byte, gpa uint64) error {
	for len(p) > 0 {
		r := m.find(gpa)
		if r == nil {
			return rangeError(gpa, uint64(len(p)))
		}
		n := copy(r.Host[gpa-r.GPA:], p)
		m.MarkDirty(gpa, uint64(n))
		p, gpa = p[n:], gpa+uint64(n)
	}
	return nil
}

func rangeError(gpa, n uint64) error {
	return &RangeError{GPA: gpa, Len: n}
}

// RangeError says which access left guest RAM. It is ErrOutOfRange.
type RangeError struct{ GPA, Len uint64 }

// Error implements error.
func (e *RangeError) Error() string {
	return fmt.Sprintf("%d bytes at guest address %#x: %v", e.Len, e.GPA, ErrOutOfRange)
}

// Is makes a RangeError match ErrOutOfRange.
func (e *RangeError) Is(target error) bool { return target == ErrOutOfRange }
