package memory

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestHugeAlignment: guest RAM that huge pages can back starts at a multiple of their size.
func TestHugeAlignment(t *testing.T) {
	for _, b := range []Backing{{Kind: Anonymous}, {Kind: Anonymous, Prealloc: true}} {
		for range 5 {
			m, err := New(b, Range{0, 4 << 20})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { m.Close() })
			iov, err := m.AppendIovecs([]unix.Iovec(nil), 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			if addr := addressOf(iov[0].Base); addr%hugeAlign != 0 {
				t.Errorf("%+v: RAM at %#x", b, addr)
			}
		}
	}
}
