package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Kind is what backs guest RAM.
type Kind string

// The backings of guest RAM (design decision 8).
const (
	Anonymous Kind = "anonymous" // private pages; transparent huge pages and KSM apply
	Memfd     Kind = "memfd"     // shared with other processes by descriptor
	HugeTLB   Kind = "hugetlb"   // from the host's pool of huge pages, reserved at start
)

// Backing says how RAM is mapped.
type Backing struct {
	Kind     Kind   `json:"kind"`
	HugePage uint64 `json:"hugePage,omitempty"` // bytes of a page of the HugeTLB kind; 0 is the host's default size
	Shared   bool   `json:"shared,omitempty"`   // MAP_SHARED
	Locked   bool   `json:"locked,omitempty"`   // mlock, so that it is never swapped
	NoMerge  bool   `json:"noMerge,omitempty"`  // keep KSM away (libvirt's nosharepages)
	Prealloc bool   `json:"prealloc,omitempty"` // touch every page at start
	Dump     bool   `json:"dump,omitempty"`     // include RAM in core dumps of the engine
}

// Range is a piece of the guest physical address space that is RAM.
type Range struct{ GPA, Size uint64 }

// New maps RAM for the ranges. Close releases it.
func New(b Backing, ranges ...Range) (*Memory, error) {
	m := &Memory{}
	var regions []Region
	for _, r := range ranges {
		region, err := m.mapRange(b, r)
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("map %d MiB of %s guest RAM at %#x: %w", r.Size>>20, b.Kind, r.GPA, err)
		}
		regions = append(regions, region)
	}
	checked, err := FromRegions(regions...)
	if err != nil {
		m.Close()
		return nil, err
	}
	m.regions = checked.regions
	return m, nil
}

func (m *Memory) mapRange(b Backing, r Range) (Region, error) {
	flags, fd := unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, -1
	if b.Kind != Anonymous || b.Shared {
		var err error
		if fd, err = memfd(b, r.Size); err != nil {
			return Region{}, err
		}
		m.files = append(m.files, fd)
		if flags = unix.MAP_PRIVATE; b.Shared || b.Kind == Memfd {
			flags = unix.MAP_SHARED
		}
	}
	if b.Prealloc && fd >= 0 {
		flags |= unix.MAP_POPULATE
	}
	if r.Size == 0 || r.Size > 1<<46 {
		return Region{}, fmt.Errorf("%d bytes is not a size RAM can have", r.Size)
	}
	length := r.Size
	if fd < 0 {
		length += hugeAlign // shared mappings are aligned by the kernel, where their pages can be huge
	}
	host, err := unix.Mmap(fd, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return Region{}, err
	}
	m.mapping = append(m.mapping, host)
	if length > r.Size {
		host = aligned(host, r.Size)
	}
	if err := advise(b, host); err != nil {
		return Region{}, err
	}
	if b.Prealloc && fd < 0 {
		populate(host)
	}
	return Region{GPA: r.GPA, Size: r.Size, Host: host, File: fd}, nil
}

// populate touches every page of private memory, after the hints that decide about its size.
func populate(host []byte) {
	if unix.Madvise(host, unix.MADV_POPULATE_WRITE) == nil {
		return
	}
	for i := 0; i < len(host); i += PageSize { // before Linux 5.14
		host[i] = 0
	}
}

// advise applies the hints that a kernel may lack without harm, and the lock, which must succeed.
func advise(b Backing, host []byte) error {
	hints := []int{}
	if b.Kind != HugeTLB {
		hints = append(hints, unix.MADV_HUGEPAGE)
	}
	if !b.Dump {
		hints = append(hints, unix.MADV_DONTDUMP)
	}
	if b.Kind == Anonymous && !b.NoMerge && !b.Shared {
		hints = append(hints, unix.MADV_MERGEABLE)
	}
	for _, h := range hints {
		if err := unix.Madvise(host, h); err != nil && err != unix.EINVAL {
			return fmt.Errorf("madvise %d: %w", h, err)
		}
	}
	if b.Locked {
		if err := unix.Mlock(host); err != nil {
			return fmt.Errorf("lock guest RAM (raise the locked-memory limit): %w", err)
		}
	}
	return nil
}

func memfd(b Backing, size uint64) (int, error) {
	flags := unix.MFD_CLOEXEC
	if b.Kind == HugeTLB {
		flags |= unix.MFD_HUGETLB
		if b.HugePage != 0 {
			flags |= log2(b.HugePage) << unix.MFD_HUGE_SHIFT
		}
	}
	fd, err := unix.MemfdCreate("guest-ram", flags)
	if err != nil {
		return -1, fmt.Errorf("create memfd: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("size memfd: %w", err)
	}
	return fd, nil
}

func log2(v uint64) int {
	n := 0
	for v > 1 {
		v >>= 1
		n++
	}
	return n
}

// Discard gives the n bytes at gpa back to the host: they read as zero afterwards. Both must be multiples of the page
// size of the backing. It is what a balloon inflation does to a page. Pinned RAM stays as it is.
func (m *Memory) Discard(gpa, n uint64) error {
	if m.pinned.Load() {
		return nil
	}
	for n > 0 {
		r := m.find(gpa)
		if r == nil {
			return rangeError(gpa, n)
		}
		off := gpa - r.GPA
		piece := min(n, r.Size-off)
		advice := unix.MADV_DONTNEED
		if r.File >= 0 {
			advice = unix.MADV_REMOVE // punches a hole in the shared file
		}
		if err := unix.Madvise(r.Host[off:off+piece], advice); err != nil {
			return fmt.Errorf("discard %d bytes at guest address %#x: %w", piece, gpa, err)
		}
		m.MarkDirty(gpa, piece)
		n, gpa = n-piece, gpa+piece
	}
	return nil
}

// Close unmaps RAM made by New. No slice of it may be used afterwards: devices and vCPUs are stopped first.
func (m *Memory) Close() error {
	var first error
	for _, h := range m.mapping {
		if err := unix.Munmap(h); err != nil && first == nil {
			first = err
		}
	}
	for _, fd := range m.files {
		unix.Close(fd)
	}
	m.mapping, m.files, m.regions = nil, nil, nil
	return first
}
