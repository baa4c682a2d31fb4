package vfio

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// fakeKernel is an iommufd in memory. Descriptors of devices are numbers; each has an IOMMU, and a page table is for the devices
// of one.
type fakeKernel struct {
	iommus   map[int]int  // of devices, by descriptor
	notes    map[int]bool // IOMMUs that note writes
	binds    error        // what bind answers
	reserved []memory.Range
	reach    []iovaRange

	next   uint32
	bound  map[int]uint32 // number of a device by descriptor
	ioas   uint32
	tables map[uint32]*fakeTable
	at     map[int]uint32 // what a device is attached to
	mapped map[uint64]uint64
	closed bool
}

type fakeTable struct {
	iommu   int
	noting  bool
	written map[int]bool // pages
}

func newFakeKernel(iommus ...int) *fakeKernel {
	k := &fakeKernel{iommus: map[int]int{}, notes: map[int]bool{}, bound: map[int]uint32{}, tables: map[uint32]*fakeTable{}, at: map[int]uint32{},
		mapped: map[uint64]uint64{}, reach: []iovaRange{{0, 0xfedfffff}, {0xfef00000, 1<<39 - 1}}}
	for i, iommu := range iommus {
		k.iommus[100+i] = iommu
	}
	return k
}

func (k *fakeKernel) number() uint32 { k.next++; return k.next }

func (k *fakeKernel) bind(fd int) (uint32, error) {
	if k.binds != nil {
		return 0, k.binds
	}
	k.bound[fd] = k.number()
	return k.bound[fd], nil
}

func (k *fakeKernel) attach(fd int, target uint32) error {
	if t := k.tables[target]; target != k.ioas && (t == nil || t.iommu != k.iommus[fd]) {
		return unix.EINVAL
	}
	for at, size := range k.mapped {
		for _, r := range k.reserved {
			if at < r.GPA+r.Size && r.GPA < at+size {
				return unix.EADDRINUSE
			}
		}
	}
	k.at[fd] = target
	return nil
}

func (k *fakeKernel) detach(fd int) error {
	if _, ok := k.at[fd]; !ok {
		return unix.EINVAL
	}
	delete(k.at, fd)
	return nil
}

func (k *fakeKernel) newIOAS() (uint32, error) { k.ioas = k.number(); return k.ioas, nil }

func (k *fakeKernel) newTable(device, _ uint32) (uint32, error) {
	for fd, id := range k.bound {
		if id == device {
			t := k.number()
			k.tables[t] = &fakeTable{iommu: k.iommus[fd]}
			return t, nil
		}
	}
	return 0, unix.ENOENT
}

func (k *fakeKernel) destroy(object uint32) error {
	if slices.Contains(slices.Collect(maps.Values(k.at)), object) || object == k.ioas && len(k.tables) > 0 {
		return unix.EBUSY
	}
	delete(k.tables, object)
	if object == k.ioas {
		clear(k.mapped)
	}
	return nil
}

func (k *fakeKernel) ranges(_ uint32, list []iovaRange) (int, error) {
	copy(list, k.reach)
	if len(list) < len(k.reach) {
		return len(k.reach), unix.EMSGSIZE
	}
	return len(k.reach), nil
}

// mapDMA pins what is mapped as soon as a device is attached: memory of devices, which begins with a 1 here, cannot be.
func (k *fakeKernel) mapDMA(_ uint32, iova uint64, host []byte) error {
	if host[0] == 1 {
		return unix.EFAULT
	}
	if _, ok := k.mapped[iova]; ok {
		return unix.EEXIST
	}
	k.mapped[iova] = uint64(len(host))
	return nil
}

func (k *fakeKernel) unmapDMA(_ uint32, iova, size uint64) error {
	if k.mapped[iova] != size {
		return unix.ENOENT
	}
	delete(k.mapped, iova)
	return nil
}

func (k *fakeKernel) notesWrites(device uint32) bool {
	for fd, id := range k.bound {
		if id == device {
			return k.notes[k.iommus[fd]]
		}
	}
	return false
}

// noteWrites forgets what was written when it is told to note, as the kernel does.
func (k *fakeKernel) noteWrites(table uint32, on bool) error {
	t := k.tables[table]
	if t == nil {
		return unix.ENOENT
	}
	t.noting, t.written = on, map[int]bool{}
	return nil
}

func (k *fakeKernel) written(table uint32, r memory.Range, bitmap []uint64) error {
	t := k.tables[table]
	if t == nil || !t.noting || k.mapped[r.GPA] != r.Size {
		return unix.EINVAL
	}
	for page := range t.written {
		if at := uint64(page) * memory.PageSize; at >= r.GPA && at < r.GPA+r.Size {
			setBits(bitmap, (at-r.GPA)/memory.PageSize, 1)
			delete(t.written, page)
		}
	}
	return nil
}

// write is a device's, to a page.
func (k *fakeKernel) write(fd, page int) {
	if t := k.tables[k.at[fd]]; t != nil && t.noting {
		t.written[page] = true
	}
}

func (k *fakeKernel) close() error { k.closed = true; return nil }

// iommufdBox is a container of devices with those IOMMUs, their descriptors from 100 on.
func iommufdBox(t *testing.T, k *fakeKernel) *Container {
	t.Helper()
	i, err := newIOMMUFD(k)
	if err != nil {
		t.Fatal(err)
	}
	return newContainer(i)
}

// Devices come into the address space, RAM is within their reach, and nothing is left of either in the end.
func TestIOMMUFD(t *testing.T) {
	k := newFakeKernel(0, 1)
	box := iommufdBox(t, k)
	if err := errors.Join(box.Add(100), box.MapRAM(ram(t, low, high)), box.Add(101)); err != nil {
		t.Fatal(err)
	}
	if len(k.tables) != 0 || k.at[100] != k.ioas || k.at[101] != k.ioas || len(k.mapped) != 2 {
		t.Errorf("page tables %v, attached %v, mapped %v", k.tables, k.at, k.mapped)
	}
	if err := errors.Join(box.Remove(100), box.UnmapRAM(), box.Remove(101), box.Remove(101), box.Close()); err != nil {
		t.Fatal(err)
	}
	if len(k.at) != 0 || len(k.mapped) != 0 || !k.closed {
		t.Errorf("attached %v, mapped %v, closed %v", k.at, k.mapped, k.closed)
	}
}

// Where the IOMMU reaches is asked for with more room when there are more ranges than there was room for.
func TestIOMMUFDRanges(t *testing.T) {
	k := newFakeKernel(0)
	box := iommufdBox(t, k)
	if got, err := box.Ranges(); err != nil || !slices.Equal(got, client) {
		t.Errorf("%v, %#x", err, got)
	}
	k.reach = nil
	for i := range uint64(100) {
		k.reach = append(k.reach, iovaRange{i << 20, i<<20 + 0xffff})
	}
	if got, err := box.Ranges(); err != nil || len(got) != 100 || got[99] != (memory.Range{GPA: 99 << 20, Size: 1 << 16}) {
		t.Errorf("%v, %d ranges: %#x", err, len(got), got)
	}
	k.reach = make([]iovaRange, maxRanges+1)
	if got, err := box.Ranges(); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("%v, %d ranges", err, len(got))
	}
}

// What the kernel refuses is explained, and the device can be taken out again.
func TestIOMMUFDRefuses(t *testing.T) {
	for _, c := range []struct {
		err  error
		says string
	}{
		{unix.EPERM, "operation not permitted: the host has no interrupt remapping (iommufd.allow_unsafe_interrupts=1 does without), or another device of its IOMMU group"},
		{unix.EBUSY, "another program has it, or its IOMMU group"},
		{unix.ENODEV, "bind the device to iommufd: no such device"},
	} {
		k := newFakeKernel(0)
		k.binds = c.err
		box := iommufdBox(t, k)
		if err := box.Add(100); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: error %v, want %q", c.err, err, c.says)
		}
		if err := errors.Join(box.Remove(100), box.Close()); err != nil {
			t.Errorf("%v: %v", c.err, err)
		}
	}
	k := newFakeKernel(0, 0)
	k.reserved = []memory.Range{{GPA: 1 << 12, Size: 1 << 12}}
	box := iommufdBox(t, k)
	if err := errors.Join(box.Add(100), box.MapRAM(ram(t, low))); err != nil {
		t.Fatal(err)
	}
	if err := box.Add(101); err == nil || !strings.Contains(err.Error(), "a region that is reserved for it is where guest RAM is") {
		t.Errorf("error %v", err)
	}
	if err := errors.Join(box.Remove(101), box.UnmapRAM(), box.Remove(100), box.Close()); err != nil {
		t.Error(err)
	}
}

// A piece of a BAR that cannot be mapped is one warning's worth: it says why, and leaves nothing behind.
func TestIOMMUFDBars(t *testing.T) {
	k := newFakeKernel(0)
	box := iommufdBox(t, k)
	if err := box.Add(100); err != nil {
		t.Fatal(err)
	}
	bar := make([]byte, 4096)
	bar[0] = 1
	if err := box.MapBAR(0xe0000000, bar); !errors.Is(err, unix.EFAULT) || !strings.Contains(err.Error(), "iommufd maps no memory of devices") {
		t.Errorf("error %v", err)
	}
	if err := box.UnmapBAR(0xe0000000); err != nil || len(k.mapped) != 0 {
		t.Errorf("%v, mapped %v", err, k.mapped)
	}
}

// Devices behind one IOMMU that notes writes share a page table, which goes with the last of them.
func TestIOMMUFDTables(t *testing.T) {
	k := newFakeKernel(0, 0, 1, 2)
	k.notes[0], k.notes[1] = true, true
	box := iommufdBox(t, k)
	for fd := range 4 {
		if err := box.Add(100 + fd); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.tables) != 2 || k.at[100] != k.at[101] || k.at[102] == k.at[100] || k.at[103] != k.ioas {
		t.Fatalf("page tables %v, attached %v", k.tables, k.at)
	}
	for left, fd := range []int{100, 101, 102, 103} {
		if err := box.Remove(fd); err != nil {
			t.Fatal(err)
		}
		if want := []int{2, 1, 0, 0}[left]; len(k.tables) != want {
			t.Errorf("without device %d: %d page tables, want %d", fd, len(k.tables), want)
		}
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
}

// What devices behind IOMMUs that note writes wrote is told once, of all of them.
func TestIOMMUFDDirty(t *testing.T) {
	k := newFakeKernel(0, 1, 0)
	k.notes[0], k.notes[1] = true, true
	box := iommufdBox(t, k)
	if err := errors.Join(box.Add(100), box.Add(101), box.MapRAM(ram(t, low, high)), box.StartDirtyLog()); err != nil {
		t.Fatal(err)
	}
	k.write(100, 3)
	k.write(101, 600)
	if err := box.Add(102); err != nil { // the page table that it shares must not forget
		t.Fatal(err)
	}
	k.write(102, 4)
	if got := dirty(t, box, 0, 1024); !slices.Equal(got, []int{3, 4, 600}) {
		t.Errorf("written: %v", got)
	}
	if got := dirty(t, box, 0, 1024); got != nil {
		t.Errorf("told again: %v", got)
	}
	k.write(101, 601)
	if err := box.Remove(101); err != nil {
		t.Fatal(err)
	}
	if got := dirty(t, box, 0, 1024); !slices.Equal(got, []int{601}) {
		t.Errorf("written by a device that is gone: %v", got)
	}
	if err := box.StopDirtyLog(); err != nil {
		t.Fatal(err)
	}
	for _, table := range k.tables {
		if table.noting {
			t.Error("a page table notes on")
		}
	}
}

// One device whose IOMMU does not tell, there from the start or not, makes all that is mapped count.
func TestIOMMUFDDirtyUntold(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint(late), func(t *testing.T) {
			k := newFakeKernel(0, 1)
			k.notes[0] = true
			box := iommufdBox(t, k)
			if err := errors.Join(box.Add(100), box.MapRAM(ram(t, low))); err != nil {
				t.Fatal(err)
			}
			do := []func() error{func() error { return box.Add(101) }, box.StartDirtyLog}
			if late {
				slices.Reverse(do)
			}
			for _, f := range do {
				if err := f(); err != nil {
					t.Fatal(err)
				}
			}
			if got := dirty(t, box, 0, 1024); len(got) != 256 {
				t.Errorf("%d pages, want all 256: %v", len(got), got)
			}
			if err := box.StopDirtyLog(); err != nil || k.tables[k.at[100]].noting {
				t.Errorf("stopped: %v; a page table notes on", err)
			}
		})
	}
}
