package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"virtd/virterr"
)

// records is the text of a journal with these changes, one behind the other, as older journals have them.
func records(changes ...change) (b []byte) {
	for _, c := range changes {
		b = appendRecord(b, c)
	}
	return b
}

// inBlocks is the text of a journal with these changes, as they are written.
func inBlocks(changes ...change) (b []byte) {
	for _, c := range changes {
		b = append(b, fillRecord(make([]byte, c.room()), []change{c})...)
	}
	return b
}

func TestRecords(t *testing.T) {
	for name, write := range map[string]func(...change) []byte{"in blocks": inBlocks, "one behind the other": records} {
		t.Run(name, func(t *testing.T) { testRecords(t, write) })
	}
}

func testRecords(t *testing.T, records func(...change) []byte) {
	a, b := uuid.UUID{1}, uuid.UUID{15: 2}
	want := []change{{a, "<domain/>"}, {b, ""}, {a, strings.Repeat("vdj1", 1100)}, {b, "<domain/>"}}
	text := records(want...)
	if got, err := readRecords(append(bytes.Clone(text), make([]byte, 3*blockSize)...)); err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(change{})) {
		t.Errorf("with room behind them: %v, %v", got, err)
	}
	for n := range len(text) + 1 { // whole, and cut short at every byte
		got, err := readRecords(text[:n])
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if len(got) > len(want) || len(got) > 0 && !cmp.Equal(got, want[:len(got)], cmp.AllowUnexported(change{})) {
			t.Fatalf("%d bytes: %v", n, got)
		}
	}
	first := len(appendRecord(nil, want[0]))
	for at := range first { // a byte that was not written so
		bad := bytes.Clone(text)
		bad[at] ^= 0x10
		if got, err := readRecords(bad); len(got) != 0 || err == nil {
			t.Errorf("byte %d is damaged: %d records, %v", at, len(got), err)
		}
	}
}

// A record that begins no block follows the one before at once: what is between them is no record, not room.
func TestRecordsInBetween(t *testing.T) {
	a, b := change{uuid.UUID{1}, "<domain/>"}, change{uuid.UUID{2}, "<domain/>"}
	text := append(append(appendRecord(nil, a), 0, 0, 0), appendRecord(nil, b)...)
	if got, err := readRecords(text); len(got) != 1 || err == nil {
		t.Errorf("%d records, %v", len(got), err)
	}
	text = append(append(inBlocks(a), make([]byte, blockSize)...), inBlocks(b)...)
	if got, err := readRecords(text); len(got) != 1 || err == nil {
		t.Errorf("behind a block that was not written: %d records, %v", len(got), err)
	}
	empty := appendRecord(nil, change{id: uuid.UUID{1}}) // no definition is empty
	empty[recordHead] = changeSave
	binary.LittleEndian.PutUint32(empty[8:], checksum(empty))
	if _, n := nextRecord(empty); n != 0 {
		t.Error("a definition without text is a record")
	}
}

func FuzzReadRecords(f *testing.F) {
	whole := records(change{uuid.UUID{1}, "<domain/>"}, change{id: uuid.UUID{2}})
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append([]byte("vdj1\xff\xff\xff\xff"), whole...))
	f.Add(append(appendRecord(nil, change{uuid.UUID{1}, "<domain/>"}, change{id: uuid.UUID{2}}), make([]byte, 100)...))
	f.Add(inBlocks(change{uuid.UUID{1}, "<domain/>"}, change{id: uuid.UUID{2}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _ := readRecords(b)
		for at := 0; ; {
			got, n := nextRecord(b[at:])
			if next := blocks(at); n == 0 && at < next && next <= len(b) && bytes.Equal(b[at:next], make([]byte, next-at)) {
				at = next
				continue
			}
			if n == 0 {
				break
			}
			if again := appendRecord(nil, got...); !bytes.Equal(b[at:at+n], again) {
				t.Errorf("a record of %d changes is not what it is written as", len(got))
			}
			if len(got) > len(all) {
				t.Fatal("not all records were read")
			}
			at, all = at+n, all[len(got):]
		}
		if len(all) > 0 {
			t.Errorf("%d changes are in no record", len(all))
		}
	})
}

// A journal that is damaged in the middle is told and kept, and what is before the damage counts.
func TestDamagedJournal(t *testing.T) {
	d, o := openDir(t)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	a, b := define(t, "a", 1, 64), define(t, "b", 2, 64)
	text := records(change{a.UUID(), a.XML(0)}, change{b.UUID(), b.XML(0)}, change{id: a.UUID()})
	text[len(records(change{a.UUID(), a.XML(0)}))+50]++
	path := filepath.Join(o.State, "journal.7")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if p := d.Problems(); len(p) != 1 || p[0].Path != path || !strings.Contains(p[0].Err.Error(), "kept as") {
		t.Errorf("problems %v", p)
	}
	if e := d.Entries(); len(e) != 1 || e[0].Name != "a" {
		t.Errorf("entries %v", e)
	}
	if kept, err := os.ReadFile(path + ".damaged"); err != nil || !bytes.Equal(kept, text) {
		t.Errorf("the journal is not kept: %v", err)
	}
}

// Power fails at every step of an open that finds two journals: the later one counts.
func TestJournalOrder(t *testing.T) {
	old, now := define(t, "a", 1, 64), define(t, "a", 1, 128)
	for at := 1; ; at++ {
		fs := newMemFS()
		for name, text := range map[string]string{"/s/journal.9": old.XML(0), "/s/journal.10": now.XML(0)} {
			b := records(change{now.UUID(), text})
			fs.now[name] = &inode{data: b, synced: b}
			fs.durable[name] = fs.now[name]
		}
		fs.failAt = at
		_, err := open(Options{State: "/s", Run: "/r"}, fs)
		for seed := range int64(50) {
			d, err := open(Options{State: "/s", Run: "/r"}, fs.restart(rand.New(rand.NewSource(seed))))
			if err != nil {
				t.Fatal(err)
			}
			if e, _ := d.Entry(now.UUID()); e.Memory != now.Memory() {
				t.Fatalf("power failed at step %d: %+v; files %s", at, e, fs.list())
			}
		}
		if fs.steps < at {
			if err != nil || fs.list() != "/s/"+now.UUID().String()+".xml" {
				t.Errorf("%v; files %s", err, fs.list())
			}
			return
		}
	}
}

// A prepared journal is as large as the one before was, and counts as none until something is in it. One that another
// overtook while it was being made is never used: what is in it would count over what is newer.
func TestPreparedJournal(t *testing.T) {
	fs := newMemFS()
	d, err := open(Options{State: "/s", Run: "/r"}, fs)
	if err != nil {
		t.Fatal(err)
	}
	a := define(t, "a", 1, 64)
	for range 3 * firstRoom / blockSize { // so that it grows
		if err := d.Save(a); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.settle(); err != nil {
		t.Fatal(err)
	}
	d.prepare()
	d.prepare()
	file := "/s/" + a.UUID().String() + ".xml"
	if got := fs.list(); got != file+" /s/journal.2" {
		t.Errorf("files %s", got)
	}
	if n := fs.now["/s/journal.2"]; len(n.synced) != 4*firstRoom || fs.durable["/s/journal.2"] != n {
		t.Errorf("%d bytes are durable", len(n.synced))
	}
	killed := fs.killed()
	if again, err := open(Options{State: "/s", Run: "/r"}, killed); err != nil || len(again.Problems()) != 0 || killed.list() != file {
		t.Errorf("opened after a kill: %v; files %s", err, killed.list())
	}
	if err := d.Save(a); err != nil {
		t.Fatal(err)
	}
	if got := d.journal.path; got != "/s/journal.2" || d.spare != nil {
		t.Errorf("%s is used", got)
	}
	fs.during = func(path string) {
		if path == "/s/journal.3" {
			fs.during = nil
			if err := errors.Join(d.settle(), d.Save(a)); err != nil {
				t.Error(err)
			}
		}
	}
	d.prepare()
	if got := d.journal.path; got != "/s/journal.4" || d.spare != nil {
		t.Errorf("%s is used, and %v prepared", got, d.spare)
	}
	if got := fs.list(); got != file+" /s/journal.4" {
		t.Errorf("files %s", got)
	}
	d.prepare()
	if err := d.Close(); err != nil || fs.list() != file {
		t.Errorf("closed: %v; files %s", err, fs.list())
	}
}

// Who defines a few makes the store busy until everything is in files, which a rest follows; who defines many in all has what
// they took given back; a single definition does neither.
func TestRest(t *testing.T) {
	fs := newMemFS()
	var rests []bool // much
	busy := false
	d, err := open(Options{State: "/s", Run: "/r", Rest: func(much bool) { rests = append(rests, much) }, Busy: func(b bool) {
		if busy == b {
			t.Errorf("told twice that busy is %v", b)
		}
		busy = b
	}}, fs)
	if err != nil {
		t.Fatal(err)
	}
	a := define(t, "a", 1, 64)
	few, many := busyChanges, restSize/blockSize
	for _, step := range []struct {
		what  string
		saves int
		busy  bool
		rests []bool
	}{
		{"one", 1, false, nil}, {"a few", few, true, []bool{false}}, {"many", many, true, []bool{true}},
		{"one after many", 1, false, nil}, {"many again", many, true, []bool{true}},
	} {
		rests = nil
		for range step.saves {
			if err := d.Save(a); err != nil {
				t.Fatal(err)
			}
		}
		if d.giveBack(); rests != nil || busy != step.busy {
			t.Errorf("%s, before they are in files: busy %v, rests %v", step.what, busy, rests)
		}
		d.work.Add(1)
		d.settleLater()
		if !slices.Equal(rests, step.rests) || busy {
			t.Errorf("%s: busy %v, rests %v, not %v", step.what, busy, rests, step.rests)
		}
	}
}

// slowFS counts the syncs of journals and holds them up.
type slowFS struct {
	disk
	begun chan struct{} // gets a value when a sync begins
	sync  chan struct{} // lets one through
}

func (s slowFS) Create(path string, mode os.FileMode) (file, error) {
	f, err := s.disk.Create(path, mode)
	if err != nil || !strings.HasPrefix(filepath.Base(path), journalPrefix) {
		return f, err
	}
	return slowFile{f, s}, nil
}

type slowFile struct {
	file
	fs slowFS
}

func (f slowFile) Sync() error {
	f.fs.begun <- struct{}{}
	<-f.fs.sync
	return f.file.Sync()
}

// Those who come while a change is being synced share one sync; questions are answered meanwhile.
func TestSharedSync(t *testing.T) {
	fs := slowFS{begun: make(chan struct{}, 10), sync: make(chan struct{})}
	d, err := open(Options{State: t.TempDir(), Run: t.TempDir()}, fs)
	if err != nil {
		t.Fatal(err)
	}
	const savers = 6
	results := make(chan error, savers)
	save := func(i int) { results <- d.Save(define(t, fmt.Sprint("d", i), i, 64)) }
	go save(1)
	<-fs.begun
	for i := 2; i <= savers; i++ {
		go save(i)
	}
	waiting := func() int {
		d.mu.RLock()
		defer d.mu.RUnlock()
		if d.next == nil {
			return 0
		}
		return len(d.next.changes)
	}
	for waiting() < savers-1 {
		if e := d.Entries(); len(e) != 0 {
			t.Fatalf("not durable and listed: %v", e)
		}
	}
	fs.sync <- struct{}{}
	fs.sync <- struct{}{}
	for range savers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := len(fs.begun); n != 1 || len(d.Entries()) != savers {
		t.Errorf("%d more syncs, entries %v", n, d.Entries())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// Many change and ask at once while changes move to files; the next Open finds what the last one left.
func TestConcurrentUse(t *testing.T) {
	d, o := openDir(t)
	var all sync.WaitGroup
	const workers, rounds = 4, 30
	for w := range workers {
		all.Go(func() {
			for i := range rounds {
				def := define(t, fmt.Sprint("d", w), w, 64+i)
				if err := d.Save(def); err != nil {
					t.Error(err)
				}
				if got, err := d.Load(def.UUID()); err != nil || got.Memory() != def.Memory() {
					t.Errorf("load: %v", err)
				}
				if i%10 == 5 {
					if err := errors.Join(d.SetAutostart(def.UUID(), true), d.settle(), d.Delete(def.UUID())); err != nil {
						t.Error(err)
					}
					if _, err := d.Load(def.UUID()); !virterr.Is(err, virterr.NoDomain) {
						t.Errorf("load of a deleted one: %v", err)
					}
				}
			}
		})
	}
	all.Wait()
	want := d.Entries()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if diff := cmp.Diff(want, d.Entries()); diff != "" || len(want) != workers || len(d.Problems()) != 0 {
		t.Errorf("%s; problems %v", diff, d.Problems())
	}
}
