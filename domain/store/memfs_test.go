package store

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var errPower = errors.New("power failed")

// memFS is a filesystem whose power can fail before any step. What was not synced may then be lost: contents in whole or
// part, and changes of directories: all from a point on, or any of them.
type memFS struct {
	now     map[string]*inode // what a running process sees
	durable map[string]*inode // what is on the platter
	pending []dirChange       // in now, not yet in durable
	steps   int               // counts what can fail
	failAt  int               // step at which power fails; 0 is never
	errAt   int               // step that returns an error once; 0 is never
	dead    bool
	during  func(path string) // called before a file is made, unless it is nil
}

type inode struct{ data, synced []byte }

// dirChange is one change of a directory: set path to node, or remove it (nil).
type dirChange struct {
	path string
	node *inode
	from string // of a rename
}

func newMemFS() *memFS { return &memFS{now: map[string]*inode{}, durable: map[string]*inode{}} }

var errDisk = errors.New("input/output error")

func (m *memFS) step() error {
	if m.dead {
		return errPower
	}
	m.steps++
	switch m.steps {
	case m.failAt:
		m.dead = true
		return errPower
	case m.errAt:
		return errDisk
	}
	return nil
}

func (m *memFS) MkdirAll(string, os.FileMode) error { return nil }

func (m *memFS) ReadDir(dir string) ([]os.DirEntry, error) {
	var names []string
	for path := range m.now {
		if filepath.Dir(path) == dir {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	var out []os.DirEntry
	for _, n := range names {
		out = append(out, entry(n))
	}
	return out, nil
}

func (m *memFS) ReadFile(path string, limit int64) ([]byte, error) {
	n := m.now[path]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return slices.Clone(n.data), nil
}

func (m *memFS) Create(path string, _ os.FileMode) (file, error) {
	if m.during != nil {
		m.during(path)
	}
	if err := m.step(); err != nil {
		return nil, err
	}
	if m.now[path] != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	n := &inode{}
	m.change(dirChange{path: path, node: n})
	return &memFile{m, n}, nil
}

func (m *memFS) Direct(path string) (file, error) {
	if err := m.step(); err != nil {
		return nil, err
	}
	return &directMemFile{memFile{m, m.now[path]}}, nil
}

// directMemFile refuses what a real one may refuse.
type directMemFile struct{ memFile }

func (f *directMemFile) WriteAt(b []byte, off int64) (int, error) {
	if off%blockSize != 0 || len(b)%blockSize != 0 || len(b) == 0 || !isAligned(b) || int(off) > len(f.n.synced) {
		panic(fmt.Sprintf("direct write of %d bytes at %d of %d durable ones", len(b), off, len(f.n.synced)))
	}
	n, err := f.memFile.WriteAt(b, off)
	if err == nil {
		f.n.synced = append(f.n.synced[:off], f.n.data[off:]...)
	}
	return n, err
}

func (f *directMemFile) Sync() error { return nil }

func (m *memFS) change(c dirChange) {
	apply(m.now, c)
	m.pending = append(m.pending, c)
}

func apply(dir map[string]*inode, c dirChange) {
	if c.from != "" {
		delete(dir, c.from)
	}
	if c.node == nil {
		delete(dir, c.path)
	} else {
		dir[c.path] = c.node
	}
}

func (m *memFS) Rename(from, to string) error {
	if err := m.step(); err != nil {
		return err
	}
	m.change(dirChange{path: to, node: m.now[from], from: from})
	return nil
}

func (m *memFS) Remove(path string) error {
	if err := m.step(); err != nil {
		return err
	}
	if m.now[path] == nil {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	m.change(dirChange{path: path})
	return nil
}

func (m *memFS) SyncDir(dir string) error {
	if err := m.step(); err != nil {
		return err
	}
	for _, c := range m.pending {
		apply(m.durable, c)
	}
	m.pending = nil
	return nil
}

// restart returns the filesystem as it may be found after the power failed.
func (m *memFS) restart(rng *rand.Rand) *memFS {
	after := newMemFS()
	after.now = maps.Clone(m.durable)
	some := rng.Intn(2) == 0 // or all up to a point
	for _, c := range m.pending[:rng.Intn(len(m.pending)+1)] {
		if !some || rng.Intn(2) == 0 {
			apply(after.now, c)
		}
	}
	for path, n := range after.now {
		data := slices.Clone(n.synced)
		if more := len(n.data) - len(n.synced); more > 0 && rng.Intn(2) == 0 {
			data = append(data, n.data[len(n.synced):len(n.synced)+rng.Intn(more+1)]...)
		}
		for at := 0; at < len(n.synced); at += sector { // what was written over what is there: each sector or not
			if end := min(at+sector, len(n.synced)); rng.Intn(2) == 0 {
				copy(data[at:end], n.data[at:end])
			}
		}
		after.now[path] = &inode{data: slices.Clone(data), synced: slices.Clone(data)}
	}
	after.durable = maps.Clone(after.now)
	return after
}

// killed returns the filesystem as the next process finds it when only this one was killed: everything done is there.
func (m *memFS) killed() *memFS {
	after := newMemFS()
	after.now, after.durable = maps.Clone(m.now), maps.Clone(m.now)
	return after
}

// sector is what a disk writes as a whole, in bytes.
const sector = 512

type memFile struct {
	m *memFS
	n *inode
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	err := f.m.step()
	if err != nil {
		b = b[:len(b)/2]
	}
	if more := int(off) + len(b) - len(f.n.data); more > 0 {
		f.n.data = append(f.n.data, make([]byte, more)...)
	}
	return copy(f.n.data[off:], b), err
}

func (f *memFile) Write(b []byte) (int, error) {
	if err := f.m.step(); err != nil {
		half := len(b) / 2
		f.n.data = append(f.n.data, b[:half]...)
		return half, err
	}
	f.n.data = append(f.n.data, b...)
	return len(b), nil
}

func (f *memFile) Sync() error {
	if err := f.m.step(); err != nil {
		return err
	}
	f.n.synced = slices.Clone(f.n.data)
	return nil
}

func (f *memFile) WriteBack() {}

func (f *memFile) Close() error { return f.m.step() }

// entry is a regular file's directory entry.
type entry string

func (e entry) Name() string               { return string(e) }
func (e entry) IsDir() bool                { return false }
func (e entry) Type() fs.FileMode          { return 0 }
func (e entry) Info() (fs.FileInfo, error) { return nil, errors.New("not needed") }

func (m *memFS) list() string { return strings.Join(slices.Sorted(maps.Keys(m.now)), " ") }
