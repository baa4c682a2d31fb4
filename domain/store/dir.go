package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Files of a store:
//
//	STATE/UUID.xml         a definition
//	STATE/UUID.autostart   empty: start it with the host
//	STATE/.UUID.xml.N.tmp  a definition that was being written when power failed; removed at the next Open
//	RUN/UUID.json          the record of a running domain
const (
	definitionExt = ".xml"
	autostartExt  = ".autostart"
	statusExt     = ".json"
	tempExt       = ".tmp"

	maxStatus = 3 * xmltree.MaxSize // bytes; a record holds two documents
)

// Dir is a Store in two directories.
type Dir struct {
	fs       filesystem
	state    string
	run      string
	emulator string

	mu       sync.Mutex // serializes changes, guards what is below
	entries  map[uuid.UUID]Entry
	names    map[string]uuid.UUID
	problems []Problem
	serial   uint64 // for names of temporary files
}

var _ Store = (*Dir)(nil)

// Options says where a store is.
type Options struct {
	State    string // definitions; created with mode 0700 if missing
	Run      string // records of running domains; likewise
	Emulator string // for domain.Options
}

// Open reads the index of a store. Files that are not ours or cannot be understood are left alone and become Problems;
// the error is only for directories that cannot be used.
func Open(o Options) (*Dir, error) { return open(o, disk{}) }

func open(o Options, fs filesystem) (*Dir, error) {
	d := &Dir{fs: fs, state: o.State, run: o.Run, emulator: o.Emulator,
		entries: map[uuid.UUID]Entry{}, names: map[string]uuid.UUID{}}
	for _, dir := range []string{o.State, o.Run} {
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			return nil, virterr.New(virterr.SystemError, "cannot create directory '%s': %w", dir, err)
		}
	}
	if err := d.scan(); err != nil {
		return nil, err
	}
	return d, d.sweep(d.run)
}

// scan fills the index.
func (d *Dir) scan() error {
	if err := d.sweep(d.state); err != nil {
		return err
	}
	list, err := d.fs.ReadDir(d.state)
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot read directory '%s': %w", d.state, err)
	}
	auto := map[string]bool{}
	for _, e := range list {
		if base, ok := strings.CutSuffix(e.Name(), autostartExt); ok {
			auto[base] = true
		}
	}
	for _, e := range list {
		base, ok := strings.CutSuffix(e.Name(), definitionExt)
		if !ok {
			continue
		}
		if err := d.index(base, auto[base]); err != nil {
			d.problems = append(d.problems, Problem{filepath.Join(d.state, e.Name()), err})
		}
	}
	return nil
}

// sweep removes the temporary files that a power cut left. They were never promised to anybody: the file they were to
// replace is still whole.
func (d *Dir) sweep(dir string) error {
	list, err := d.fs.ReadDir(dir)
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot read directory '%s': %w", dir, err)
	}
	for _, e := range list {
		if !ourTemp(e.Name()) {
			continue
		}
		if err := d.fs.Remove(filepath.Join(dir, e.Name())); err != nil {
			d.problems = append(d.problems, Problem{filepath.Join(dir, e.Name()), err})
		}
	}
	return nil
}

// ourTemp reports whether a file name is one that write makes: .UUID.xml.N.tmp.
func ourTemp(name string) bool {
	name, ok := strings.CutSuffix(name, tempExt)
	name, dot := strings.CutPrefix(name, ".")
	name, serial := strings.TrimSuffix(name, filepath.Ext(name)), strings.TrimPrefix(filepath.Ext(name), ".")
	_, err := strconv.ParseUint(serial, 10, 64)
	base := strings.TrimSuffix(name, filepath.Ext(name))
	id, idErr := uuid.Parse(base)
	return ok && dot && err == nil && idErr == nil && id.String() == base
}

// index reads one definition file into the index.
func (d *Dir) index(base string, autostart bool) error {
	id, err := uuid.Parse(base)
	if err != nil || id.String() != base {
		return fmt.Errorf("file is not named by a UUID, so virtd did not write it; define it to take it over")
	}
	def, err := d.read(id)
	if err != nil {
		return err
	}
	if def.UUID() != id {
		return fmt.Errorf("holds domain '%s' with another UUID, %s", def.Name(), def.UUID())
	}
	if other, taken := d.names[def.Name()]; taken {
		return fmt.Errorf("domain '%s' is also defined with UUID %s; rename one of the two files' <name>", def.Name(), other)
	}
	d.keep(def, autostart)
	return nil
}

// keep puts a definition's numbers into the index.
func (d *Dir) keep(def *domain.Definition, autostart bool) {
	if old, ok := d.entries[def.UUID()]; ok {
		delete(d.names, old.Name)
	}
	// Clone: a substring would keep the whole document in memory.
	e := Entry{
		UUID: def.UUID(), Name: strings.Clone(def.Name()), Title: strings.Clone(def.Title()), Autostart: autostart,
		Memory: def.Memory(), CurrentMemory: def.CurrentMemory(), VCPUs: def.VCPUs(), CurrentVCPUs: def.CurrentVCPUs(),
	}
	d.entries[e.UUID] = e
	d.names[e.Name] = e.UUID
}

func (d *Dir) read(id uuid.UUID) (*domain.Definition, error) {
	path := d.definitionPath(id)
	text, err := d.fs.ReadFile(path, xmltree.MaxSize)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot read definition '%s': %w", path, err)
	}
	def, err := domain.Parse(string(text), domain.Options{Stored: true, Emulator: d.emulator})
	if err != nil {
		return nil, virterr.New(virterr.As(err).Code, "cannot read definition '%s': %s", path, virterr.As(err).Message)
	}
	return def, nil
}

func (d *Dir) definitionPath(id uuid.UUID) string {
	return filepath.Join(d.state, id.String()+definitionExt)
}
func (d *Dir) autostartPath(id uuid.UUID) string {
	return filepath.Join(d.state, id.String()+autostartExt)
}
func (d *Dir) statusPath(id uuid.UUID) string { return filepath.Join(d.run, id.String()+statusExt) }

// Entries implements Store.
func (d *Dir) Entries() []Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Entry, 0, len(d.entries))
	for _, e := range d.entries {
		out = append(out, e)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Entry implements Store.
func (d *Dir) Entry(id uuid.UUID) (Entry, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.entries[id]
	return e, ok
}

// ByName implements Store.
func (d *Dir) ByName(name string) (Entry, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, ok := d.names[name]
	return d.entries[id], ok
}

// Problems implements Store.
func (d *Dir) Problems() []Problem {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.problems)
}

// Load implements Store.
func (d *Dir) Load(id uuid.UUID) (*domain.Definition, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.entries[id]; !ok {
		return nil, noDomain(id)
	}
	return d.read(id)
}

func noDomain(id uuid.UUID) error {
	return virterr.New(virterr.NoDomain, "no domain with matching uuid '%s'", id)
}

// Save implements Store.
func (d *Dir) Save(def *domain.Definition) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if other, taken := d.names[def.Name()]; taken && other != def.UUID() {
		return virterr.New(virterr.OperationFailed, "domain '%s' already exists with uuid %s", def.Name(), other)
	}
	text := def.XML(domain.XMLSecure | domain.XMLInactive)
	err := d.write(d.definitionPath(def.UUID()), []byte(text), true)
	if err == nil || errors.Is(err, errVisible) {
		d.keep(def, d.entries[def.UUID()].Autostart)
	}
	return err
}

// Delete implements Store. The mark goes first: a mark without a definition would start the next domain of that UUID.
func (d *Dir) Delete(id uuid.UUID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.entries[id]
	if !ok {
		return noDomain(id)
	}
	if e.Autostart {
		err := d.remove(d.autostartPath(id), true)
		if err == nil || errors.Is(err, errVisible) {
			e.Autostart = false
			d.entries[id] = e
		}
		if err != nil {
			return err
		}
	}
	err := d.remove(d.definitionPath(id), true)
	if err == nil || errors.Is(err, errVisible) {
		delete(d.entries, id)
		delete(d.names, e.Name)
	}
	return err
}

// SetAutostart implements Store.
func (d *Dir) SetAutostart(id uuid.UUID, on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.entries[id]
	if !ok {
		return noDomain(id)
	}
	if e.Autostart == on {
		return nil
	}
	var err error
	if on {
		err = d.write(d.autostartPath(id), nil, true)
	} else {
		err = d.remove(d.autostartPath(id), true)
	}
	if err == nil || errors.Is(err, errVisible) {
		e.Autostart = on
		d.entries[id] = e
	}
	return err
}

// SaveStatus implements Store.
func (d *Dir) SaveStatus(s Status) error {
	s.Version = StatusVersion
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return virterr.New(virterr.InternalError, "cannot write the record of domain %s: %w", s.UUID, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.write(d.statusPath(s.UUID), append(text, '\n'), false)
}

// DeleteStatus implements Store.
func (d *Dir) DeleteStatus(id uuid.UUID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.remove(d.statusPath(id), false)
}

// Statuses implements Store.
func (d *Dir) Statuses() ([]Status, []Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list, err := d.fs.ReadDir(d.run)
	if err != nil {
		return nil, []Problem{{d.run, err}}
	}
	var out []Status
	var problems []Problem
	for _, e := range list {
		base, ok := strings.CutSuffix(e.Name(), statusExt)
		if !ok || strings.HasPrefix(base, ".") {
			continue
		}
		path := filepath.Join(d.run, e.Name())
		s, err := d.readStatus(path, base)
		if err != nil {
			problems = append(problems, Problem{path, err})
			continue
		}
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, problems
}

func (d *Dir) readStatus(path, base string) (s Status, err error) {
	text, err := d.fs.ReadFile(path, maxStatus)
	if err != nil {
		return s, err
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&s); err != nil {
		return s, err
	}
	switch {
	case s.UUID.String() != base:
		return s, fmt.Errorf("record is of domain %s", s.UUID)
	case s.Version < 1 || s.Version > StatusVersion:
		return s, fmt.Errorf("record has version %d, this build reads up to %d", s.Version, StatusVersion)
	}
	return s, nil
}

// errVisible is wrapped by errors of changes that happened but may be undone by a power cut: the directory could not be
// synced. The index follows what is there.
var errVisible = errors.New("the change may not survive a power cut")

// write replaces path by a file with that text, atomically. With durable it returns after the change would survive a
// power cut.
func (d *Dir) write(path string, text []byte, durable bool) error {
	dir, name := filepath.Split(path)
	d.serial++
	temp := filepath.Join(dir, fmt.Sprintf(".%s.%d%s", name, d.serial, tempExt))
	if err := d.writeTemp(temp, text, durable); err != nil {
		_ = d.fs.Remove(temp)
		return virterr.New(virterr.SystemError, "cannot write '%s': %w", path, err)
	}
	if err := d.fs.Rename(temp, path); err != nil {
		_ = d.fs.Remove(temp)
		return virterr.New(virterr.SystemError, "cannot write '%s': %w", path, err)
	}
	if durable {
		if err := d.fs.SyncDir(filepath.Clean(dir)); err != nil {
			return virterr.New(virterr.SystemError, "cannot sync directory of '%s': %v: %w", path, err, errVisible)
		}
	}
	return nil
}

func (d *Dir) writeTemp(temp string, text []byte, durable bool) error {
	f, err := d.fs.Create(temp, 0o600)
	if errors.Is(err, os.ErrExist) { // left by a crash after our Open: by another process that should not be here
		if err = d.fs.Remove(temp); err == nil {
			f, err = d.fs.Create(temp, 0o600)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// remove removes a file; a missing one is no error.
func (d *Dir) remove(path string, durable bool) error {
	if err := d.fs.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return virterr.New(virterr.SystemError, "cannot remove '%s': %w", path, err)
	}
	if durable {
		if err := d.fs.SyncDir(filepath.Dir(path)); err != nil {
			return virterr.New(virterr.SystemError, "cannot sync directory of '%s': %v: %w", path, err, errVisible)
		}
	}
	return nil
}
