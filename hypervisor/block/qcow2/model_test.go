package qcow2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// layout is one way an image can be.
type layout struct {
	name    string
	s       Settings
	backing int64 // bytes of a raw backing file, 0 for none
}

var layouts = []layout{
	{"v3", Settings{Size: 4<<20 + 512}, 0},
	{"v3 backing", Settings{Size: 4<<20 + 512, BackingFile: "b", BackingFormat: "raw"}, 3<<20 + 512},
	{"v2", Settings{Version: 2, Size: 1 << 20, ClusterSize: 4096}, 0},
	{"v2 backing", Settings{Version: 2, Size: 1 << 20, ClusterSize: 4096, BackingFile: "b"}, 1 << 20},
	{"512", Settings{Size: 3 << 20, ClusterSize: 512, RefcountBits: 64}, 0},
	{"1 bit", Settings{Size: 2 << 20, ClusterSize: 512, RefcountBits: 1}, 0},
	{"4 bits backing", Settings{Size: 2 << 20, ClusterSize: 1024, RefcountBits: 4, BackingFile: "b"}, 1 << 20},
	{"extended", Settings{Size: 4 << 20, ClusterSize: 32 << 10, ExtendedL2: true, RefcountBits: 8}, 0},
	{"extended backing", Settings{Size: 4<<20 + 1024, ClusterSize: 64 << 10, ExtendedL2: true, BackingFile: "b"}, 5 << 20},
	{"2 MiB", Settings{Size: 9 << 20, ClusterSize: 2 << 20, RefcountBits: 32}, 0},
}

// model is an image and what it must read as.
type model struct {
	t    testing.TB
	rnd  *rand.Rand
	q    *Image
	want []byte
	base []byte
	log  []string
}

func newModel(t testing.TB, l layout, f *memFile, seed uint64) *model {
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), want: make([]byte, l.s.Size)}
	var o Options
	if l.backing > 0 {
		m.base = make([]byte, l.backing)
		for i := range m.base {
			m.base[i] = byte(m.rnd.Uint32()) | 1
		}
		copy(m.want, m.base)
		o.Backing = Raw{&memFile{b: m.base}, l.backing}
	}
	o.Punch = true
	must(t, Create(f, l.s))
	q, err := Open(f, o)
	must(t, err)
	m.q = q
	return m
}

// span picks a range of whole sectors, often of whole clusters.
func (m *model) span() (off, n int64) {
	cs, size := m.q.ClusterSize(), int64(len(m.want))
	limit := min(8*cs, size)
	off, n = m.rnd.Int64N(size/512)*512, (1+m.rnd.Int64N(limit/512))*512
	if m.rnd.IntN(3) == 0 {
		off, n = off&^(cs-1), (n+cs-1)&^(cs-1)
	}
	return off, min(n, size-off)
}

// step does one random operation to both.
func (m *model) step() {
	off, n := m.span()
	var err error
	switch op := m.rnd.IntN(10); {
	case op < 5:
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(m.rnd.Uint32())
		}
		m.log = append(m.log, fmt.Sprintf("write %d %d", off, n))
		err = m.q.Write(p, off)
		copy(m.want[off:], p)
	case op < 7:
		unmap := op == 5
		m.log = append(m.log, fmt.Sprintf("zero %d %d %t", off, n, unmap))
		err = m.q.WriteZeroes(off, n, unmap)
		clear(m.want[off : off+n])
	case op < 8:
		m.log = append(m.log, fmt.Sprintf("discard %d %d", off, n))
		err = m.q.Discard(off, n)
		m.discarded(off, n)
	case op < 9:
		m.log = append(m.log, "flush")
		err = m.q.Flush()
	default:
		m.log = append(m.log, "compare")
		m.compare(off, n)
	}
	if err != nil {
		m.t.Fatalf("%v after %q", err, m.log)
	}
}

// discarded does to want what Discard promises.
func (m *model) discarded(off, n int64) {
	cs, size := m.q.ClusterSize(), int64(len(m.want))
	end := off + n
	if end != size {
		end &^= cs - 1
	}
	for off = (off + cs - 1) &^ (cs - 1); off < end; off += cs {
		to := min(off+cs, size)
		switch {
		case m.q.Version == 2 && m.base != nil:
			clear(m.want[off:to])
			copy(m.want[off:to], m.base[min(off, int64(len(m.base))):])
		case m.untouched(off):
		default:
			clear(m.want[off:to])
		}
	}
}

// untouched tells whether a cluster still shows the backing file: discarding such a one changes nothing. With
// subclusters a part may show it.
func (m *model) untouched(off int64) bool {
	at, err := m.q.locate(off, m.q.ClusterSize())
	must(m.t, err)
	if m.q.ExtendedL2 && at.class != classNone {
		m.reread(off)
		return true
	}
	return at.class == classNone && m.base != nil
}

// reread takes over what the image says of a cluster, after checking that it is zero.
func (m *model) reread(off int64) {
	p := m.want[off:min(off+m.q.ClusterSize(), int64(len(m.want)))]
	must(m.t, m.q.Read(p, off))
	if len(bytes.Trim(p, "\x00")) != 0 {
		m.t.Fatalf("a discarded cluster at %d has data", off)
	}
}

func (m *model) compare(off, n int64) {
	m.t.Helper()
	got := make([]byte, n)
	for i := range got {
		got[i] = 0xee
	}
	must(m.t, m.q.Read(got, off))
	if !bytes.Equal(got, m.want[off:off+n]) {
		i := 0
		for got[i] == m.want[off+int64(i)] {
			i++
		}
		m.t.Fatalf("%s: byte %d is %#x, not %#x, after %q", m.t.Name(), off+int64(i), got[i], m.want[off+int64(i)], m.log)
	}
}

// often is n, or a fifth of it in a short run: what is wrong with a layout shows early, and the race detector makes each
// operation slow.
func often(n int) int {
	if testing.Short() {
		return n / 5
	}
	return n
}

// Random operations do what they do to an array of bytes, in every layout, and what is in the file afterwards is what our
// checker and QEMU's find sound and read the same.
func TestRandomOperations(t *testing.T) {
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			for seed := range uint64(often(5)) {
				f := &memFile{}
				m := newModel(t, l, f, seed)
				for range often(120) {
					m.step()
				}
				m.compare(0, int64(len(m.want)))
				must(t, m.q.Close())
				sound(t, f)
				o := m.q.opts
				q, err := Open(f, o)
				must(t, err)
				m.q = q
				m.compare(0, int64(len(m.want)))
			}
		})
	}
}

// FuzzOperations does random operations, chosen by seed, in one of the layouts.
func FuzzOperations(f *testing.F) {
	for i := range layouts {
		f.Add(uint64(i), uint8(i))
	}
	f.Fuzz(func(t *testing.T, seed uint64, which uint8) {
		l := layouts[int(which)%len(layouts)]
		file := &memFile{}
		m := newModel(t, l, file, seed)
		for range 30 {
			m.step()
		}
		m.compare(0, int64(len(m.want)))
		must(t, m.q.Close())
		sound(t, file)
	})
}
