package vfio

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"virtd/hypervisor/memory"
)

// two ranges of RAM with a hole between them; the second is no whole number of words long.
var low, high = memory.Range{GPA: 0, Size: 1 << 20}, memory.Range{GPA: 2 << 20, Size: 100 << 12}

// logging is a container with RAM and the log on.
func logging(t *testing.T, tells bool) (*Container, *fakeIOMMU) {
	t.Helper()
	iommu := &fakeIOMMU{mapped: map[uint64]uint64{}, written: map[uint64][]uint64{}, tells: tells}
	box := newContainer(iommu)
	if err := errors.Join(box.Add(0), box.MapRAM(ram(t, low, high)), box.StartDirtyLog()); err != nil {
		t.Fatal(err)
	}
	return box, iommu
}

// dirty reads the log of some pages and returns which of them devices may have written, counted from gpa on.
func dirty(t *testing.T, box *Container, gpa, pages uint64) []int {
	t.Helper()
	bitmap := make([]uint64, (pages+63)/64)
	if err := box.ReadDirty(gpa, pages, bitmap); err != nil {
		t.Fatal(err)
	}
	var out []int
	for i := range len(bitmap) * 64 {
		if bitmap[i/64]>>(i%64)&1 != 0 {
			out = append(out, i)
		}
	}
	return out
}

// An IOMMU that tells gives a map's pages at once; each is told once, by whatever part of the map is asked for.
func TestReadDirtyTold(t *testing.T) {
	box, iommu := logging(t, true)
	for _, page := range []int{0, 63, 64, 255} {
		iommu.write(low.GPA, page)
	}
	iommu.write(high.GPA, 99)
	if got := dirty(t, box, 60<<12, 5); !slices.Equal(got, []int{3, 4}) {
		t.Errorf("pages 60 to 64: %v", got)
	}
	iommu.write(low.GPA, 1)
	if got := dirty(t, box, 0, 1024); !slices.Equal(got, []int{0, 1, 255, 512 + 99}) {
		t.Errorf("all pages: %v", got)
	}
	if got := dirty(t, box, 0, 1024); got != nil {
		t.Errorf("told again: %v", got)
	}
}

// What others have found stays in the bitmap.
func TestReadDirtyAdds(t *testing.T) {
	box, iommu := logging(t, true)
	iommu.write(low.GPA, 2)
	bitmap := []uint64{1 << 7}
	if err := box.ReadDirty(0, 64, bitmap); err != nil || bitmap[0] != 1<<7|1<<2 {
		t.Errorf("%v, %#x", err, bitmap[0])
	}
}

// Where the IOMMU does not tell, devices may have written all that they reach, each time, and nothing else.
func TestReadDirtyUntold(t *testing.T) {
	box, _ := logging(t, false)
	var want []int
	for i := range 256 {
		want = append(want, i)
	}
	for i := range 100 {
		want = append(want, 512+i)
	}
	for range 2 {
		if got := dirty(t, box, 0, 1024); !slices.Equal(got, want) {
			t.Fatalf("%d pages: %v", len(got), got)
		}
	}
	if got := dirty(t, box, 250<<12, 10); !slices.Equal(got, []int{0, 1, 2, 3, 4, 5}) {
		t.Errorf("at the end of a range: %v", got)
	}
	if err := box.UnmapRAM(); err != nil {
		t.Fatal(err)
	}
	if got := dirty(t, box, 0, 1024); got != nil {
		t.Errorf("nothing is mapped, and written is %v", got)
	}
}

// RAM that devices get while the log is on is in it, and a log begins empty.
func TestDirtyLogBegins(t *testing.T) {
	iommu := &fakeIOMMU{mapped: map[uint64]uint64{}, written: map[uint64][]uint64{}, tells: true}
	box := newContainer(iommu)
	if err := box.ReadDirty(0, 1, make([]uint64, 1)); err == nil {
		t.Error("there is no log, and it was read")
	}
	if err := errors.Join(box.Add(0), box.StartDirtyLog(), box.StartDirtyLog(), box.MapRAM(ram(t, high))); err != nil {
		t.Fatal(err)
	}
	iommu.write(high.GPA, 5)
	if got := dirty(t, box, high.GPA, 1); got != nil {
		t.Errorf("page 0: %v", got)
	}
	if err := errors.Join(box.StopDirtyLog(), box.StopDirtyLog()); err != nil || iommu.noting {
		t.Errorf("stopped: %v, the IOMMU notes on: %v", err, iommu.noting)
	}
	if err := box.StartDirtyLog(); err != nil {
		t.Fatal(err)
	}
	if got := dirty(t, box, high.GPA, 100); got != nil {
		t.Errorf("of the log before: %v", got)
	}
}

func TestReadDirtyRefused(t *testing.T) {
	box, _ := logging(t, false)
	for name, c := range map[string]struct {
		gpa, pages uint64
		words      int
	}{
		"inside a page": {12, 1, 1}, "bitmap too short": {0, 65, 1}, "no bitmap": {0, 1, 0}, "beyond all addresses": {1 << 63, 1 << 52, 1},
		"as many pages as there are numbers": {0, 1<<64 - 1, 1},
	} {
		if err := box.ReadDirty(c.gpa, c.pages, make([]uint64, c.words)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := box.ReadDirty(0, 0, nil); err != nil {
		t.Errorf("no pages: %v", err)
	}
}

// moveBits does what one bit after the other would.
func TestMoveBits(t *testing.T) {
	for range 2000 {
		from, to := make([]uint64, 4), make([]uint64, 4)
		for i := range from {
			from[i], to[i] = rand.Uint64(), rand.Uint64()&rand.Uint64()
		}
		wantFrom, wantTo := slices.Clone(from), slices.Clone(to)
		src, dst := rand.Uint64N(256), rand.Uint64N(256)
		n := rand.Uint64N(257 - max(src, dst))
		for i := range n {
			bit := wantFrom[(src+i)/64] >> ((src + i) % 64) & 1
			wantFrom[(src+i)/64] &^= 1 << ((src + i) % 64)
			wantTo[(dst+i)/64] |= bit << ((dst + i) % 64)
		}
		moveBits(to, dst, from, src, n)
		if !slices.Equal(from, wantFrom) || !slices.Equal(to, wantTo) {
			t.Fatalf("%d bits from %d to %d: %#x %#x, want %#x %#x", n, src, dst, from, to, wantFrom, wantTo)
		}
	}
}

// The capability says whether the kernel notes pages of 4 KiB.
func TestNotesPages(t *testing.T) {
	capability := func(id uint16, sizes uint64) []byte {
		text := make([]byte, 24+32)
		binary.NativeEndian.PutUint16(text[24:], id)
		binary.NativeEndian.PutUint64(text[40:], sizes)
		return text
	}
	for _, c := range []struct {
		name string
		text []byte
		want bool
	}{
		{"Linux", capability(capMigration, 0xfffffffffffff000), true},
		{"larger pages only", capability(capMigration, 1<<16), false},
		{"no sizes", capability(capMigration, 0), false},
		{"another capability", capability(capIOVARange, 1<<12), false},
		{"cut short", capability(capMigration, 1<<12)[:50], false},
		{"none", nil, false},
	} {
		if got := notesPages(c.text, 24); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
