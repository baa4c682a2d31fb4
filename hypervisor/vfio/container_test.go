package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/bus"
	"virtd/hypervisor/memory"
)

// fakeIOMMU is a container of the kernel in memory: it maps nothing outside of what it reaches, and nothing twice.
type fakeIOMMU struct {
	reach    []memory.Range // nil: the kernel does not tell
	reserved []memory.Range // of groups that come later
	groups   int
	sets     int
	mapped   map[uint64]uint64
	most     int   // maps that it takes, 0 is any number
	fails    error // what add answers

	tells   bool                // it can note what devices write
	noting  bool                // it does
	written map[uint64][]uint64 // pages, by map
}

func (f *fakeIOMMU) add(int) error {
	for at, size := range f.mapped {
		for _, r := range f.reserved {
			if at < r.GPA+r.Size && r.GPA < at+size {
				return fmt.Errorf("put the IOMMU group into the guest's container: %w", unix.EINVAL)
			}
		}
	}
	f.groups++
	return f.fails
}
func (f *fakeIOMMU) remove(int) error                { return nil }
func (f *fakeIOMMU) open(int, string) (int, error)   { return -1, unix.ENODEV }
func (f *fakeIOMMU) setUp() error                    { f.sets++; return nil }
func (f *fakeIOMMU) ranges() ([]memory.Range, error) { return f.reach, nil }
func (f *fakeIOMMU) mapDMA(iova uint64, host []byte) error {
	size := uint64(len(host))
	if f.reach != nil && !within(iova, size, f.reach) {
		return unix.EINVAL
	}
	for at, n := range f.mapped {
		if at < iova+size && iova < at+n {
			return unix.EEXIST
		}
	}
	if f.most > 0 && len(f.mapped) >= f.most {
		return unix.ENOMEM
	}
	f.mapped[iova] = size
	return nil
}
func (f *fakeIOMMU) unmapDMA(iova, size uint64) error {
	if f.mapped[iova] != size {
		return unix.ENOENT
	}
	delete(f.mapped, iova)
	return nil
}
func (f *fakeIOMMU) startDirty() (bool, error) { f.noting = f.tells; return f.tells, nil }
func (f *fakeIOMMU) stopDirty() error          { f.noting = false; return nil }

// readDirty answers for one map, and all of it, as type 1 does.
func (f *fakeIOMMU) readDirty(r memory.Range, bitmap []uint64) error {
	if !f.noting || f.mapped[r.GPA] != r.Size || uint64(len(bitmap))*64 < r.Size/memory.PageSize {
		return unix.EINVAL
	}
	copy(bitmap, f.written[r.GPA])
	delete(f.written, r.GPA)
	return nil
}

// write is a device's: to a page of a map.
func (f *fakeIOMMU) write(at uint64, page int) {
	if f.written[at] == nil {
		f.written[at] = make([]uint64, (f.mapped[at]/memory.PageSize+63)/64)
	}
	f.written[at][page/64] |= 1 << (page % 64)
}
func (f *fakeIOMMU) close() error { return nil }

// ram is guest RAM of those ranges, small as it is.
func ram(t *testing.T, ranges ...memory.Range) *memory.Memory {
	t.Helper()
	var regions []memory.Region
	for _, r := range ranges {
		regions = append(regions, memory.Region{GPA: r.GPA, Size: r.Size, Host: make([]byte, r.Size), File: -1})
	}
	m, err := memory.FromRegions(regions...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var client = []memory.Range{{GPA: 0, Size: 0xfee00000}, {GPA: 0xfef00000, Size: 1<<39 - 0xfef00000}}

func TestMapRAM(t *testing.T) {
	below, above := memory.Range{GPA: 0, Size: 2 << 20}, memory.Range{GPA: 4 << 30, Size: 1 << 20}
	for _, c := range []struct {
		name  string
		iommu fakeIOMMU
		ram   []memory.Range
		says  string // "" is none
	}{
		{"reached", fakeIOMMU{reach: client}, []memory.Range{below, above}, ""},
		{"kernel before 5.4", fakeIOMMU{}, []memory.Range{below, above}, ""},
		{"too few bits", fakeIOMMU{reach: client}, []memory.Range{below, {GPA: 1 << 39, Size: 1 << 20}},
			"devices of the host cannot reach guest RAM at 0x8000000000 to 0x80000fffff: their IOMMU reaches 0x0 to 0xfedfffff, 0xfef00000 to 0x7fffffffff"},
		{"into the MSI window", fakeIOMMU{reach: client}, []memory.Range{{GPA: 0xfed00000, Size: 2 << 20}},
			"devices of the host cannot reach guest RAM at 0xfed00000 to 0xfeefffff"},
		{"locked memory", fakeIOMMU{reach: client, most: 1}, []memory.Range{below, above},
			"map guest RAM 0x100000000 to 0x1000fffff for DMA: cannot allocate memory (the locked-memory limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.iommu.mapped = map[uint64]uint64{}
			box := newContainer(&c.iommu)
			if err := box.Add(0); err != nil {
				t.Fatal(err)
			}
			err := box.MapRAM(ram(t, c.ram...))
			if c.says == "" {
				if err != nil || len(c.iommu.mapped) != len(c.ram) {
					t.Errorf("%v, mapped %v", err, c.iommu.mapped)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.says) || len(c.iommu.mapped) != 0 {
				t.Errorf("error %v, want %q; still mapped: %v", err, c.says, c.iommu.mapped)
			}
			if err := box.UnmapRAM(); err != nil || len(c.iommu.mapped) != 0 {
				t.Errorf("after UnmapRAM: %v, %v", err, c.iommu.mapped)
			}
		})
	}
}

// A group that comes while the guest runs is refused when a region reserved for it is where RAM is; the others work on.
func TestSecondGroup(t *testing.T) {
	iommu := &fakeIOMMU{reach: client, mapped: map[uint64]uint64{}}
	box := newContainer(iommu)
	if err := errors.Join(box.Add(0), box.MapRAM(ram(t, memory.Range{Size: 2 << 20})), box.Add(0)); err != nil {
		t.Fatal(err)
	}
	if iommu.sets != 1 {
		t.Errorf("the IOMMU was set up %d times", iommu.sets)
	}
	iommu.reserved = []memory.Range{{GPA: 1 << 20, Size: 4096}}
	if err := box.Add(0); err == nil || !strings.Contains(err.Error(), "a region that is reserved for it is where guest RAM is") {
		t.Errorf("error %v", err)
	}
	if len(iommu.mapped) != 1 {
		t.Errorf("mapped %v", iommu.mapped)
	}
}

// Other devices reach what is mapped of a BAR, as long as the guest decodes it; where they cannot, one warning says so.
func TestPeers(t *testing.T) {
	iommu := &fakeIOMMU{reach: client, mapped: map[uint64]uint64{}}
	var log []string
	dev := newFake()
	f, err := New(Config{Name: "hostdev0", Device: dev, Slots: &fakeSlots{at: map[int][2]uint64{}}, Peers: newContainer(iommu), Interrupts: &fakeController{},
		Logf: func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }})
	if err != nil {
		t.Fatal(err)
	}
	addToRoot(t, f, &bus.Space{}, nil)
	r := &rig{f: f}
	r.place()
	want := map[uint64]uint64{0xe0000000: 16 << 10, 0xe0101000: 4 << 10, 0xe0103000: 4 << 10} // never the MSI-X table
	if len(iommu.mapped) != 3 || len(log) != 0 {
		t.Errorf("mapped %#x, log %q", iommu.mapped, log)
	}
	for at, size := range want {
		if iommu.mapped[at] != size {
			t.Errorf("mapped %#x, want %#x", iommu.mapped, want)
		}
	}
	r.write(regCommand, 0, 0)
	if len(iommu.mapped) != 0 {
		t.Errorf("the guest does not decode it, and mapped are %#x", iommu.mapped)
	}
	for range 3 { // beyond the IOMMU's address bits
		r.write(0x10, 0, 0, 0, 0, 0, 1, 0, 0)
		r.write(0x1c, 0, 0, 0, 0, 0, 2, 0, 0)
		r.write(regCommand, 6, 0)
		r.write(regCommand, 0, 0)
	}
	if len(log) != 1 || !strings.Contains(log[0], "warning: hostdev0: other devices cannot reach its BAR 0 at 0x10000000000 to 0x10000003fff by DMA: the IOMMU reaches 0x0 to 0xfedfffff") {
		t.Errorf("log %q", log)
	}
	r.place()
	if err := f.Close(); err != nil || len(iommu.mapped) != 0 {
		t.Errorf("closed: %v, mapped %#x", err, iommu.mapped)
	}
}

// iovaCap is a list of capabilities with one of ranges at 40.
func iovaCap(ranges ...[2]uint64) []byte {
	le := binary.NativeEndian
	text := make([]byte, 40+16+16*len(ranges))
	le.PutUint16(text[24:], 3) // available maps
	le.PutUint32(text[28:], 40)
	le.PutUint16(text[40:], capIOVARange)
	le.PutUint32(text[48:], uint32(len(ranges)))
	for i, r := range ranges {
		le.PutUint64(text[56+16*i:], r[0])
		le.PutUint64(text[64+16*i:], r[1])
	}
	return text
}

func TestIOVARanges(t *testing.T) {
	for _, c := range []struct {
		name string
		text []byte
		want []memory.Range
	}{
		{"Intel", iovaCap([2]uint64{0, 0xfedfffff}, [2]uint64{0xfef00000, 1<<39 - 1}), client},
		{"in any order", iovaCap([2]uint64{0xfef00000, 1<<39 - 1}, [2]uint64{0, 0xfedfffff}), client},
		{"everything", iovaCap([2]uint64{0, 1<<64 - 1}), []memory.Range{{GPA: 0, Size: maxIOVA}}},
		{"broken pages", iovaCap([2]uint64{1, 0x2ffe}), []memory.Range{{GPA: 0x1000, Size: 0x1000}}},
		{"the wrong way round", iovaCap([2]uint64{0x5000, 0x1000}), []memory.Range{}},
		{"nothing", iovaCap(), []memory.Range{}},
		{"no such capability", make([]byte, 64), nil},
	} {
		if got := iovaRanges(c.text, 24); !slices.Equal(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	text := iovaCap([2]uint64{0, 0xfff})
	binary.NativeEndian.PutUint32(text[48:], 1<<31)
	if got := iovaRanges(text, 24); len(got) != 1 {
		t.Errorf("more ranges than there are: %v", got)
	}
}

func FuzzCapabilities(f *testing.F) {
	f.Add(iovaCap([2]uint64{0, 0xfedfffff}), uint32(24))
	f.Fuzz(func(t *testing.T, text []byte, at uint32) {
		for _, r := range iovaRanges(text, at) {
			if r.Size == 0 || r.GPA > maxIOVA || r.Size > maxIOVA {
				t.Errorf("range %#x", r)
			}
		}
		notesPages(text, at)
		areas, _ := sparseAreas(text, at, 1<<20)
		for _, a := range areas {
			if a.Size == 0 || a.Offset+a.Size > 1<<20 {
				t.Errorf("area %#x", a)
			}
		}
	})
}
