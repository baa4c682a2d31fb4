package memory

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// twoRegions has RAM at 0..64 KiB, adjoining RAM to 128 KiB, and RAM above a hole at 1 MiB.
func twoRegions(t *testing.T) *Memory {
	t.Helper()
	m, err := New(Backing{Kind: Anonymous}, Range{0, 64 << 10}, Range{64 << 10, 64 << 10}, Range{1 << 20, 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestAccessOutsideRAM(t *testing.T) {
	m := twoRegions(t)
	for _, c := range []struct {
		name   string
		gpa, n uint64
		ok     bool
	}{
		{"first byte", 0, 1, true},
		{"last byte", 1<<20 + 64<<10 - 1, 1, true},
		{"over the end", 1<<20 + 64<<10 - 1, 2, false},
		{"hole", 512 << 10, 1, false},
		{"into the hole", 128<<10 - 1, 2, false},
		{"wraps", math.MaxUint64, 2, false},
		{"length wraps", 4096, math.MaxUint64 - 100, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := m.AppendIovecs(nil, c.gpa, c.n)
			if (err == nil) != c.ok {
				t.Errorf("AppendIovecs: %v", err)
			}
			if err != nil && !errors.Is(err, ErrOutOfRange) {
				t.Errorf("error %v is not ErrOutOfRange", err)
			}
			if got := m.Contains(c.gpa, c.n); got != c.ok {
				t.Errorf("Contains = %v", got)
			}
			if _, err := m.Slice(c.gpa, c.n); (err == nil) != c.ok {
				t.Errorf("Slice: %v", err)
			}
		})
	}
}

func TestSpanningAdjoiningRegions(t *testing.T) {
	m := twoRegions(t)
	want := []byte("across the seam")
	if err := m.WriteAt(want, 64<<10-5); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := m.ReadAt(got, 64<<10-5); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read back %q, %v", got, err)
	}
	iov, err := m.AppendIovecs(nil, 64<<10-5, uint64(len(want)))
	if err != nil || len(iov) != 2 || iov[0].Len != 5 {
		t.Fatalf("iovecs %v, %v", iov, err)
	}
	if _, err := m.Slice(64<<10-5, 10); err == nil {
		t.Error("Slice across regions succeeded")
	}
}

func TestDirtyLog(t *testing.T) {
	m := twoRegions(t)
	m.MarkDirty(0, 1) // nothing records yet
	m.StartDirtyLog()
	m.MarkDirty(PageSize*3-1, 2)
	if err := m.StoreUint32(1<<20+PageSize*5, 7); err != nil {
		t.Fatal(err)
	}
	m.MarkDirty(math.MaxUint64, 1)
	if got := m.TakeDirty(0)[0]; got != 1<<2|1<<3 {
		t.Errorf("region 0 dirty %#x", got)
	}
	if got := m.TakeDirty(2)[0]; got != 1<<5 {
		t.Errorf("region 2 dirty %#x", got)
	}
	if got := m.TakeDirty(0)[0]; got != 0 {
		t.Errorf("dirty bits survived TakeDirty: %#x", got)
	}
	if err := m.Discard(PageSize*6, PageSize*2); err != nil { // a balloon's pages are zero from then on
		t.Fatal(err)
	}
	if got := m.TakeDirty(0)[0]; got != 3<<6 {
		t.Errorf("discarded pages: dirty %#x", got)
	}
}

func TestDiscard(t *testing.T) {
	for _, b := range []Backing{{Kind: Anonymous}, {Kind: Memfd, Shared: true}} {
		m, err := New(b, Range{0, 16 * PageSize})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.WriteAt([]byte{1, 2, 3}, 2*PageSize); err != nil {
			t.Fatal(err)
		}
		if err := m.Discard(2*PageSize, PageSize); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 3)
		if err := m.ReadAt(got, 2*PageSize); err != nil || !bytes.Equal(got, make([]byte, 3)) {
			t.Errorf("%s: after discard %v, %v", b.Kind, got, err)
		}
		m.Close()
	}
}

func TestRegionsRefused(t *testing.T) {
	page := make([]byte, PageSize)
	for name, regions := range map[string][]Region{
		"misaligned": {{GPA: 1, Size: PageSize, Host: page}},
		"overlap":    {{GPA: 0, Size: PageSize, Host: page}, {GPA: 0, Size: PageSize, Host: page}},
		"wrap":       {{GPA: math.MaxUint64 - PageSize + 1 - PageSize, Size: PageSize, Host: page}, {GPA: math.MaxUint64 &^ (PageSize - 1), Size: 2 * PageSize, Host: make([]byte, 2*PageSize)}},
		"short map":  {{GPA: 0, Size: 2 * PageSize, Host: page}},
	} {
		if _, err := FromRegions(regions...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAppendIovecsDoesNotAllocate(t *testing.T) {
	m := twoRegions(t)
	dst := make([]unix.Iovec, 0, 4)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := m.AppendIovecs(dst, 64<<10-5, 10); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
