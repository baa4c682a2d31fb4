package store

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Files of a store:
//
//	STATE/UUID.xml         a definition
//	STATE/journal.N        changes of definitions that are not in files of their own yet: see journal.go
//	STATE/UUID.autostart   empty: start it with the host
//	STATE/.UUID.xml.N.tmp  a definition that was being written when power failed; removed at the next Open
//	RUN/UUID.json          the record of a running domain
const (
	definitionExt = ".xml"
	autostartExt  = ".autostart"
	statusExt     = ".json"
	tempExt       = ".tmp"
)

// Dir is a Store in two directories. Open and Close it.
//
// A change of a definition is durable in the journal before its caller goes on, which takes one sync, shared by those who
// come at once. Later it moves to the definition's own file. Nobody waits for a disk with mu held: questions are answered
// while definitions are written.
type Dir struct {
	fs       filesystem
	state    string
	run      string
	emulator string
	log      *slog.Logger
	waits    func()     // Options.Waits
	busy     func(bool) // Options.Busy
	rest     func(bool) // Options.Rest
	settles  bool       // by itself; tests do it when they want to
	writers  int        // of files at once
	// firstRoom is how many bytes of zeros a journal begins with; tests have less.
	firstRoom int
	serial    atomic.Uint64 // for names of temporary files

	settling    sync.Mutex      // one settle at a time; taken before the others
	commitMu    sync.Mutex      // one batch at a time, and guards what follows; taken before mu
	journal     *journal        // nil: the next change begins one
	spare       *journal        // empty, for the next change that begins one; nil: not prepared
	nextRoom    int             // bytes that a prepared journal has
	journals    []string        // whose changes are not all in files yet, oldest first
	damaged     map[string]bool // of them; as Open found them
	lastJournal uint64
	record      []byte // being written

	marks    sync.Mutex // serializes autostart marks
	statuses sync.Mutex // serializes status records

	mu          sync.RWMutex         // guards what is below
	entries     map[uuid.UUID]*Entry // an Entry is never changed: a change is another one
	names       map[string]*Entry
	claimed     map[string]uuid.UUID // names of definitions that are being saved
	problems    []Problem
	next        *batch               // that whoever comes joins
	pending     map[uuid.UUID]change // in the journal, newer than in files
	moving      map[uuid.UUID]change // likewise, being written to files; older than pending
	backlog     int                  // bytes that the changes of pending took in journals: see change.room
	timer       *time.Timer          // settles later
	settleAfter time.Duration
	isBusy      bool           // as Options.Busy was told
	moved       int            // bytes likewise, of what moved to files since Options.Rest was told of much
	work        sync.WaitGroup // the timer's
	closed      bool
}

var _ Store = (*Dir)(nil)

// Open reads the index of a store. Files that are not ours or cannot be understood are left alone and become Problems;
// the error is only for directories that cannot be used.
func Open(o Options) (*Dir, error) {
	d, err := open(o, disk{})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settles, d.writers, d.moved = true, fileWriters, 0
	d.schedule() // what open could not move
	return d, nil
}

func open(o Options, fs filesystem) (*Dir, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	d := &Dir{fs: fs, state: o.State, run: o.Run, emulator: o.Emulator, log: o.Log, waits: o.Waits, busy: o.Busy, rest: o.Rest,
		writers: 1, firstRoom: firstRoom, settleAfter: settleDelay,
		entries: map[uuid.UUID]*Entry{}, names: map[string]*Entry{}, claimed: map[string]uuid.UUID{},
		pending: map[uuid.UUID]change{}, damaged: map[string]bool{}}
	for _, dir := range []string{o.State, o.Run} {
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			return nil, virterr.New(virterr.SystemError, "cannot create directory '%s': %w", dir, err)
		}
	}
	if err := d.scan(); err != nil {
		return nil, err
	}
	if err := d.settle(); err != nil {
		d.problems = append(d.problems, Problem{d.state, err})
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
	var names []string
	auto := map[string]bool{}
	for _, e := range list {
		names = append(names, e.Name())
		if base, ok := strings.CutSuffix(e.Name(), autostartExt); ok {
			auto[base] = true
		}
	}
	d.readJournals(names)
	for _, name := range names {
		base, ok := strings.CutSuffix(name, definitionExt)
		if id, err := uuid.Parse(base); !ok || err == nil && d.journaled(id) {
			continue
		}
		if err := d.index(base, auto[base]); err != nil {
			d.problems = append(d.problems, Problem{filepath.Join(d.state, name), err})
		}
	}
	for id, c := range d.pending {
		if c.text == "" {
			continue
		}
		if err := d.index(id.String(), auto[id.String()]); err != nil {
			d.problems = append(d.problems, Problem{d.definitionPath(id), err})
		}
	}
	return nil
}

// journaled reports whether the journal says what a definition is, rather than its file.
func (d *Dir) journaled(id uuid.UUID) bool {
	_, ok := d.pending[id]
	return ok
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

// index reads one definition into the index.
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
		return fmt.Errorf("domain '%s' is also defined with UUID %s; rename one of the two files' <name>", def.Name(), other.UUID)
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
	e := &Entry{
		UUID: def.UUID(), Name: strings.Clone(def.Name()), Title: strings.Clone(def.Title()), Autostart: autostart,
		Memory: def.Memory(), CurrentMemory: def.CurrentMemory(), VCPUs: def.VCPUs(), CurrentVCPUs: def.CurrentVCPUs(),
	}
	d.entries[e.UUID] = e
	d.names[e.Name] = e
}

// read reads a definition from where it is now.
func (d *Dir) read(id uuid.UUID) (*domain.Definition, error) {
	path := d.definitionPath(id)
	d.mu.RLock()
	c, ok := d.pending[id]
	if !ok {
		c, ok = d.moving[id]
	}
	d.mu.RUnlock()
	text := c.text
	if !ok {
		data, err := d.fs.ReadFile(path, xmltree.MaxSize)
		if err != nil {
			return nil, virterr.New(virterr.SystemError, "cannot read definition '%s': %w", path, err)
		}
		text = string(data)
	}
	def, err := domain.Parse(text, domain.Options{Stored: true, Emulator: d.emulator})
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
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]Entry, 0, len(d.entries))
	for _, e := range d.entries {
		out = append(out, *e)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Entry implements Store.
func (d *Dir) Entry(id uuid.UUID) (Entry, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return found(d.entries[id])
}

func found(e *Entry) (Entry, bool) {
	if e == nil {
		return Entry{}, false
	}
	return *e, true
}

// ByName implements Store.
func (d *Dir) ByName(name string) (Entry, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return found(d.names[name])
}

// Problems implements Store.
func (d *Dir) Problems() []Problem {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.problems)
}

// Load implements Store.
func (d *Dir) Load(id uuid.UUID) (*domain.Definition, error) {
	if _, ok := d.Entry(id); !ok {
		return nil, noDomain(id)
	}
	def, err := d.read(id)
	if _, ok := d.Entry(id); !ok { // it was deleted meanwhile
		return nil, noDomain(id)
	}
	return def, err
}

func noDomain(id uuid.UUID) error {
	return virterr.New(virterr.NoDomain, "no domain with matching uuid '%s'", id)
}

// Save implements Store.
func (d *Dir) Save(def *domain.Definition) error {
	if err := d.claim(def); err != nil {
		return err
	}
	defer d.unclaim(def)
	text := def.XML(domain.XMLSecure | domain.XMLInactive)
	return d.commit(change{def.UUID(), text}, func() {
		old, _ := found(d.entries[def.UUID()])
		d.keep(def, old.Autostart)
	})
}

// claim keeps others from saving another definition of the same name meanwhile.
func (d *Dir) claim(def *domain.Definition) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	other, taken := d.claimed[def.Name()]
	if e := d.names[def.Name()]; e != nil {
		other, taken = e.UUID, true
	}
	if taken && other != def.UUID() {
		return virterr.New(virterr.OperationFailed, "domain '%s' already exists with uuid %s", def.Name(), other)
	}
	d.claimed[def.Name()] = def.UUID()
	return nil
}

func (d *Dir) unclaim(def *domain.Definition) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.claimed, def.Name())
}

// Delete implements Store. The mark goes first: a mark without a definition would start the next domain of that UUID.
func (d *Dir) Delete(id uuid.UUID) error {
	if _, ok := d.Entry(id); !ok {
		return noDomain(id)
	}
	if err := d.SetAutostart(id, false); err != nil {
		return err
	}
	return d.commit(change{id: id}, func() {
		if e := d.entries[id]; e != nil {
			delete(d.names, e.Name)
			delete(d.entries, id)
		}
	})
}

// SetAutostart implements Store.
func (d *Dir) SetAutostart(id uuid.UUID, on bool) error {
	d.marks.Lock()
	defer d.marks.Unlock()
	e, ok := d.Entry(id)
	if !ok {
		return noDomain(id)
	}
	if e.Autostart == on {
		return nil
	}
	var err error
	if on {
		err = d.replace(d.autostartPath(id), nil, true)
	} else {
		err = d.remove(d.autostartPath(id))
	}
	if err == nil {
		err = d.syncDir(d.state)
	}
	if err == nil || errors.Is(err, errVisible) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if e, ok := found(d.entries[id]); ok {
			e.Autostart = on
			d.entries[id], d.names[e.Name] = &e, &e
		}
	}
	return err
}
