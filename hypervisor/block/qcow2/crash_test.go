package qcow2

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// mayBe is what a sector may read as after a crash: what a flush promised, or anything written since.
type mayBe struct {
	durable []byte
	since   map[int64][][]byte // by sector
}

func (b *mayBe) wrote(p []byte, off int64) {
	for i := int64(0); i < int64(len(p)); i += 512 {
		b.since[off+i] = append(b.since[off+i], bytes.Clone(p[i:i+512]))
	}
}

func (b *mayBe) flushed(want []byte) {
	copy(b.durable, want)
	clear(b.since)
}

func (b *mayBe) check(t *testing.T, got []byte, at string) {
	t.Helper()
	for off := int64(0); off < int64(len(got)); off += 512 {
		s := got[off : off+512]
		ok := bytes.Equal(s, b.durable[off:off+512])
		for _, w := range b.since[off] {
			ok = ok || bytes.Equal(s, w)
		}
		if !ok {
			t.Fatalf("%s: sector at %d is nothing that was ever there since the last flush", at, off)
		}
	}
}

// A cut of power at every point of what is written leaves an image that opens, has no error but leaks, and has what was
// flushed. Between two syncs the disk may have done any of the writes: all before the cut, and any choice of them.
func TestPowerCut(t *testing.T) {
	for _, l := range []layout{
		{"512", Settings{Size: 1 << 20, ClusterSize: 512, RefcountBits: 64}, 0},
		{"v2 backing", Settings{Version: 2, Size: 1 << 19, ClusterSize: 512, BackingFile: "b"}, 1 << 18},
		{"backing", Settings{Size: 1 << 20, ClusterSize: 4096, BackingFile: "b"}, 1 << 19},
		{"extended", Settings{Size: 1 << 20, ClusterSize: 16 << 10, ExtendedL2: true}, 0},
	} {
		t.Run(l.name, func(t *testing.T) {
			for seed := range uint64(2) {
				powerCuts(t, l, seed)
			}
		})
	}
}

func powerCuts(t *testing.T, l layout, seed uint64) {
	f := &memFile{}
	m := newModel(t, l, f, seed)
	before := bytes.Clone(f.b)
	f.record = true
	can := &mayBe{durable: bytes.Clone(m.want), since: map[int64][][]byte{}}
	rnd := rand.New(rand.NewPCG(seed, 2))
	for range often(40) {
		from := len(f.log)
		old := bytes.Clone(m.want)
		m.step()
		for off := int64(0); off < int64(len(old)); off += 512 {
			if !bytes.Equal(old[off:off+512], m.want[off:off+512]) {
				can.wrote(m.want[off:off+512], off)
			}
		}
		flushed := len(m.log) > 0 && m.log[len(m.log)-1] == "flush"
		for cut := from; cut <= len(f.log); cut++ {
			checkCut(t, l, m, can, before, f.log[:cut], rnd)
		}
		if flushed {
			can.flushed(m.want)
		}
	}
}

// checkCut looks at what is on disk when power fails after log.
func checkCut(t *testing.T, l layout, m *model, can *mayBe, before []byte, log []event, rnd *rand.Rand) {
	synced := 0
	for i, e := range log {
		if e.p == nil {
			synced = i
		}
	}
	for round := range 2 {
		disk := &memFile{b: bytes.Clone(before)}
		for i, e := range log {
			if e.p != nil && (i < synced || round == 0 || rnd.IntN(2) == 0) {
				disk.apply(e)
			}
		}
		at := m.log[len(m.log)-1]
		r, err := Check(disk)
		if err != nil {
			t.Fatalf("cut after %d writes in %s: %v", len(log), at, err)
		}
		if r.Errors+r.Nonsense != 0 {
			t.Fatalf("cut after %d writes in %s, round %d: %q", len(log), at, round, r.Texts)
		}
		o := Options{ReadOnly: true, Backing: m.q.opts.Backing}
		q, err := Open(disk, o)
		must(t, err)
		got := make([]byte, len(m.want))
		must(t, q.Read(got, 0))
		can.check(t, got, at)
	}
}

// What leaked is found and freed, and the image is as before.
func TestRepairFreesLeaks(t *testing.T) {
	f, q := create(t, Settings{Size: 1 << 20, ClusterSize: 4096}, Options{})
	data := bytes.Repeat([]byte{7}, 256<<10)
	must(t, q.Write(data, 8192))
	must(t, q.Flush())
	must(t, q.Write(data, 512<<10))
	_, err := q.refs.writeBack() // and then the power fails
	must(t, err)
	r, err := Check(f)
	must(t, err)
	if r.Leaks != 64+0 || r.Errors != 0 {
		t.Fatalf("%d leaks, %d errors", r.Leaks, r.Errors)
	}
	must(t, Repair(f))
	sound(t, f)
	q, err = Open(f, Options{})
	must(t, err)
	got := make([]byte, len(data))
	must(t, q.Read(got, 8192))
	if !bytes.Equal(got, data) {
		t.Error("data has changed")
	}
	must(t, q.Write(data, 700<<10))
	must(t, q.Close())
	sound(t, f)
}

// An image that QEMU did not close may have any refcounts. It is not opened for writing before it is repaired.
func TestDirtyImage(t *testing.T) {
	f, q := create(t, Settings{Size: 1 << 20, ClusterSize: 4096, LazyRefcounts: true}, Options{})
	must(t, q.Write(bytes.Repeat([]byte{9}, 64<<10), 0))
	must(t, q.Close())
	f.b[fieldIncompat+7] |= incompatDirty
	copy(f.b[q.refTable[0]+16:], make([]byte, 100)) // refcounts that were never written
	if _, err := Open(f, Options{}); err != ErrDirty {
		t.Fatalf("opened for writing: %v", err)
	}
	if _, err := Open(f, Options{ReadOnly: true}); err != nil {
		t.Fatalf("not opened for reading: %v", err)
	}
	must(t, Repair(f))
	sound(t, f)
	q, err := Open(f, Options{})
	must(t, err)
	must(t, q.Write(bytes.Repeat([]byte{5}, 64<<10), 512<<10))
	must(t, q.Close())
	sound(t, f)
}

// The host's disk is full, or fails: the request fails, the image stays sound.
func TestFailingWrites(t *testing.T) {
	for at := 1; at < 60; at++ {
		f := &memFile{}
		m := newModel(t, layouts[4], f, uint64(at))
		f.failAt = at
		failed := false
		for range 30 {
			off, n := m.span()
			failed = m.q.Write(bytes.Repeat([]byte{byte(at)}, int(n)), off) != nil || failed
			failed = m.q.Flush() != nil || failed
		}
		must(t, m.q.Close())
		if !failed {
			t.Fatalf("write %d did not fail", at)
		}
		sound(t, f)
	}
}

// fullFile writes a part of data and then has no room for the rest.
type fullFile struct {
	*memFile
	full bool
}

func (f *fullFile) Write(p []byte, off int64) error {
	if f.full && p[0] == 0x55 {
		err := f.memFile.Write(p[:len(p)/2], off)
		return errors.Join(err, errors.New("no space left"))
	}
	return f.memFile.Write(p, off)
}

// What a failed write left in the file shows nowhere: its cluster goes to another part of the disk, most of which was never
// written.
func TestFailedWriteLeavesNothing(t *testing.T) {
	mem, q := create(t, Settings{Size: 16 << 20}, Options{})
	must(t, q.Close())
	f := &fullFile{memFile: mem, full: true}
	q, err := Open(f, Options{})
	must(t, err)
	if q.Write(bytes.Repeat([]byte{0x55}, 64<<10), 1<<20) == nil {
		t.Fatal("the write did not fail")
	}
	f.full = false
	must(t, q.Write([]byte{1}, 2<<20))
	got := make([]byte, 64<<10)
	must(t, q.Read(got, 2<<20))
	if want := append([]byte{1}, make([]byte, 64<<10-1)...); !bytes.Equal(got, want) {
		t.Error("a cluster shows what was never written to it")
	}
	must(t, q.Close())
}
