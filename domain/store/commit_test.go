package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/domain"
)

// Nothing is written that would not be read: records have a limit, however many come at once, journals have, and one that has more
// than is read is kept.
func TestJournalLimits(t *testing.T) {
	d, o := openDir(t)
	d.mu.Lock()
	d.settles = false
	d.mu.Unlock()
	const n = 7
	d.commitMu.Lock() // so that changes wait for one another
	var saving sync.WaitGroup
	for i := range n {
		def := long(t, i+1, 3<<20)
		saving.Go(func() {
			if err := d.Save(def); err != nil {
				t.Error(err)
			}
		})
	}
	for claimed := 0; claimed < n; time.Sleep(10 * time.Millisecond) {
		d.mu.RLock()
		claimed = len(d.claimed)
		d.mu.RUnlock()
	}
	d.commitMu.Unlock()
	saving.Wait()
	data, err := os.ReadFile(d.journal.path)
	if err != nil {
		t.Fatal(err)
	}
	for all := 0; all < n; {
		changes, size := nextRecord(data)
		if size == 0 || blocks(size) > maxBatch {
			t.Fatalf("behind %d changes is a record of %d bytes", all, size)
		}
		all, data = all+len(changes), data[blocks(size):]
	}
	full := d.journal
	full.end = maxJournal - blockSize + 1
	d.mu.Lock()
	d.backlog = 0 // else the change moves the others to files first
	d.mu.Unlock()
	if err := d.Save(define(t, "small", n+1, 64)); err != nil || d.journal == full || len(d.journals) != 2 {
		t.Errorf("a full journal is written on: %v, %d journals", err, len(d.journals))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.State, "journal.99")
	a := define(t, "a", n+2, 64)
	if err := errors.Join(os.WriteFile(path, inBlocks(change{a.UUID(), a.XML(0)}), 0o600), os.Truncate(path, maxRead+1)); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if p := d.Problems(); len(p) != 1 || p[0].Path != path || len(d.Entries()) != n+2 {
		t.Errorf("problems %v; %d definitions", p, len(d.Entries()))
	}
	if _, err := os.Stat(path + damagedExt); err != nil {
		t.Error("a journal that is too long is not kept: ", err)
	}
}

// long is a definition with a description of so many bytes.
func long(t testing.TB, id, size int) *domain.Definition {
	t.Helper()
	text := strings.Replace(define(t, fmt.Sprint("long", id), id, 64).XML(0), "</name>", "</name><description>"+strings.Repeat("x", size)+"</description>", 1)
	def, err := domain.Parse(text, domain.Options{Stored: true})
	if err != nil {
		t.Fatal(err)
	}
	return def
}

// Records go past the kernel's cache where the file system has that, and are where the next process reads them; where it has
// not, they are written as the rest is.
func TestDirect(t *testing.T) {
	for name, fs := range map[string]filesystem{"direct": disk{}, "not direct": cachedFS{}} {
		t.Run(name, func(t *testing.T) {
			o := Options{State: filepath.Join(t.TempDir(), "state"), Run: filepath.Join(t.TempDir(), "run")}
			d, err := open(o, fs)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{}
			save := func(n int) {
				for range n {
					def := define(t, fmt.Sprint("d", len(want)), len(want)+1, 64)
					want[def.Name()] = true
					if err := d.Save(def); err != nil {
						t.Fatal(err)
					}
				}
			}
			save(2)
			if err := d.settle(); err != nil {
				t.Fatal(err)
			}
			d.prepare()
			save(2 * firstRoom / blockSize) // more than there is room for
			_, direct := d.journal.file.(directFile)
			if want := name == "direct" && hasDirect(t); direct != want {
				t.Errorf("written past the cache: %v, not %v", direct, want)
			}
			defer d.journal.file.Close()
			again, err := open(o, disk{}) // the other one was killed
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range again.Entries() {
				delete(want, e.Name)
			}
			if len(want) != 0 || len(again.Problems()) != 0 {
				t.Errorf("%d of the definitions are gone; problems %v", len(want), again.Problems())
			}
			if err := again.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// hasDirect reports whether the file system of temporary directories has direct writes, with memory that the kernel aligned.
func hasDirect(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Open(filepath.Join(t.TempDir(), "probe"), unix.O_CREAT|unix.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	page, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	n, err := unix.Pwrite(fd, page, 0)
	return err == nil && n == blockSize
}

// cachedFS refuses direct writes at the first of them, as file systems with larger blocks do.
type cachedFS struct{ disk }

func (cachedFS) Direct(path string) (file, error) {
	f, err := os.Open(path)
	return diskFile{f}, err
}

// TestWaits: who is asked to keep CPUs awake hears of each change before it is written.
func TestWaits(t *testing.T) {
	fs := newMemFS()
	var at []int
	d, err := open(Options{State: "/s", Run: "/r", Waits: func() { at = append(at, fs.steps) }}, fs)
	if err != nil {
		t.Fatal(err)
	}
	a := define(t, "a", 1, 64)
	before := fs.steps
	if err := errors.Join(d.Save(a), d.Delete(a.UUID())); err != nil {
		t.Fatal(err)
	}
	if len(at) != 2 || at[0] != before || at[1] == fs.steps {
		t.Errorf("told at steps %v; from %d to %d", at, before, fs.steps)
	}
}
