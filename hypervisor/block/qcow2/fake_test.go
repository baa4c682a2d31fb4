package qcow2

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// memFile is a File in memory, which can record what was written between syncs.
type memFile struct {
	mu     sync.Mutex
	b      []byte
	fixed  bool // does not grow
	record bool
	log    []event
	synced int   // syncs so far
	failAt int   // writes until one fails, 0 for never
	limit  int64 // bytes it can hold, 0 for maxMem
}

// event is one write, or a sync where p is nil.
type event struct {
	off int64
	p   []byte
}

func (m *memFile) Read(p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	if off < int64(len(m.b)) {
		n = copy(p, m.b[off:])
	}
	clear(p[n:])
	return nil
}

// maxMem stops an image that wants to be very large.
const maxMem = 256 << 20

func (m *memFile) Write(p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failAt > 0 {
		if m.failAt--; m.failAt == 0 {
			return fmt.Errorf("injected")
		}
	}
	if limit := m.limit; off < 0 || off+int64(len(p)) > maxMem || limit > 0 && off+int64(len(p)) > limit {
		return fmt.Errorf("write of %d bytes at %d: too large for a test", len(p), off)
	}
	m.apply(event{off, p})
	if m.record {
		m.log = append(m.log, event{off, slices.Clone(p)})
	}
	return nil
}

func (m *memFile) apply(e event) {
	if end := e.off + int64(len(e.p)); end > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, end-int64(len(m.b)))...)
	}
	copy(m.b[e.off:], e.p)
}

func (m *memFile) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.synced++
	if m.record {
		m.log = append(m.log, event{})
	}
	return nil
}

func (m *memFile) Size() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.b)), nil
}
func (m *memFile) Grows() bool { return !m.fixed }

// Punch shows as poison what nobody should read any more.
func (m *memFile) Punch(off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := off; i < min(off+n, int64(len(m.b))); i++ {
		m.b[i] = 0xdd
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes an image in memory and opens it.
func create(t testing.TB, s Settings, o Options) (*memFile, *Image) {
	t.Helper()
	f := &memFile{}
	must(t, Create(f, s))
	q, err := Open(f, o)
	must(t, err)
	return f, q
}

// sound checks an image that was closed: nothing leaks, nothing is wrong.
func sound(t testing.TB, f File) {
	t.Helper()
	r, err := Check(f)
	must(t, err)
	if r.Leaks+r.Errors+r.Nonsense != 0 {
		t.Fatalf("%d leaks, %d errors, %d nonsense: %q", r.Leaks, r.Errors, r.Nonsense, r.Texts)
	}
}

// tool runs one of QEMU's programs, or skips the test where the machine has none: they are peers, not what is tested.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed, so there is no peer to compare with", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func onDisk(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.qcow2")
	must(t, os.WriteFile(path, b, 0o600))
	return path
}
