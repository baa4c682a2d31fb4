package storage

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"virtd/eventbus"
	"virtd/virterr"
)

// Config is what a Manager works with.
type Config struct {
	State string       // definitions; survives a boot of the host
	Run   string       // records of active pools; does not
	Log   *slog.Logger // nil: slog.Default
}

// Manager is all storage pools of a host. Its methods are safe for concurrent use; errors that a user can cause are
// *virterr.Error.
type Manager struct {
	log     *slog.Logger
	records *records
	events  *eventbus.Bus[Event]

	// imageUsers, see AskUsers; nil knows none.
	imageUsers atomic.Pointer[func(path string) []string]

	mu    sync.Mutex // guards what is below, and what Pool says it guards
	pools map[uuid.UUID]*Pool
}

// Open reads the definitions and finds the pools that the last virtd had active.
func Open(cfg Config) (*Manager, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	r, err := openRecords(cfg.State, cfg.Run)
	if err != nil {
		return nil, err
	}
	m := &Manager{log: cfg.Log, records: r, pools: map[uuid.UUID]*Pool{}}
	if err := m.load(); err != nil {
		return nil, err
	}
	for _, p := range m.pools {
		if !p.active {
			continue
		}
		if err := removePartials(p.def.target); err != nil {
			m.log.Error("cannot remove unfinished volumes", "pool", p.def.name, "error", err)
		}
	}
	m.events = eventbus.New[Event]()
	return m, nil
}

// AskUsers gives the manager what it asks before it changes or deletes a volume: which running domains use the file at
// path, by name.
func (m *Manager) AskUsers(users func(path string) []string) { m.imageUsers.Store(&users) }

// users returns the running domains that use a file.
func (m *Manager) users(path string) []string {
	if ask := m.imageUsers.Load(); ask != nil {
		return (*ask)(path)
	}
	return nil
}

func (m *Manager) load() error {
	defined, problems, err := m.records.read(m.records.state)
	if err != nil {
		return err
	}
	active, more, err := m.records.read(m.records.run)
	if err != nil {
		return err
	}
	for _, p := range append(problems, more...) {
		m.log.Error("a pool's file is left alone because it cannot be understood", "file", p.path, "error", p.err)
	}
	for _, d := range defined {
		if other := m.byName(d.name); other != nil {
			m.log.Error("two files define a pool of that name; rename one", "pool", d.name, "kept", other.id, "left", d.uuid)
			continue
		}
		m.pools[d.uuid] = &Pool{m: m, id: d.uuid, def: d, persistent: true, autostart: m.records.autostart(d.uuid)}
	}
	for _, d := range active {
		p := m.pools[d.uuid]
		if p == nil {
			if m.byName(d.name) != nil {
				continue
			}
			p = &Pool{m: m, id: d.uuid}
			m.pools[d.uuid] = p
		} else if *p.def != *d {
			p.next = p.def
		}
		p.def, p.active = d, true
	}
	return nil
}

// Close ends the delivery of events. Pools stay active for the next Manager.
func (m *Manager) Close() { m.events.Close() }

// Subscribe calls f with every event from now on, in order, one at a time. f must not block. The returned function ends the
// subscription and must not be called from f.
func (m *Manager) Subscribe(f func(Event)) (cancel func()) { return m.events.Subscribe(f) }

// Autostart starts the pools that are marked for it, once for each boot of the host: a pool that somebody stopped stays
// stopped when virtd is restarted.
func (m *Manager) Autostart() {
	mark := filepath.Join(m.records.run, autostartedMark)
	if _, err := os.Stat(mark); err == nil {
		return
	}
	for _, p := range m.List(ListInactive | ListAutostart) {
		if err := p.Start(0); err != nil && !virterr.Is(err, virterr.OperationInvalid) {
			m.log.Error("cannot autostart a storage pool", "pool", p.Name(), "error", err)
		}
	}
	if err := writeFile(mark, ""); err != nil {
		m.log.Error("cannot note that pools were autostarted", "error", err)
	}
}

// EnsureDefault makes the pool named default over a directory, started and marked for autostart, if that never happened
// before and no pool has that name or directory.
func (m *Manager) EnsureDefault(target string) error {
	mark := filepath.Join(m.records.state, defaultMark)
	if _, err := os.Stat(mark); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.mu.Lock()
	taken := m.byName("default") != nil || m.byTarget(filepath.Clean(target), uuid.Nil, false) != nil
	m.mu.Unlock()
	if !taken {
		d := &definition{uuid: uuid.New(), name: "default", target: filepath.Clean(target), perms: noPermissions()}
		p, err := m.define(d)
		if err == nil {
			err = p.Start(BuildAtStart)
		}
		if err == nil {
			err = p.SetAutostart(true)
		}
		if err != nil {
			return err
		}
	}
	return writeFile(mark, "")
}

// ListFlags choose pools (virConnectListAllStoragePoolsFlags). In each group of bits none means all.
type ListFlags uint32

// The flags that pools here differ in. Beyond them are types: ListDir, and those of which there are none.
const (
	ListInactive    ListFlags = 1 << 0
	ListActive      ListFlags = 1 << 1
	ListPersistent  ListFlags = 1 << 2
	ListTransient   ListFlags = 1 << 3
	ListAutostart   ListFlags = 1 << 4
	ListNoAutostart ListFlags = 1 << 5
	ListDir         ListFlags = 1 << 6
	listTypes       ListFlags = (1<<20 - 1) &^ (1<<6 - 1)

	// ListKnown is every flag that libvirt has.
	ListKnown ListFlags = 1<<20 - 1
)

// List returns the pools that the flags choose, by name.
func (m *Manager) List(flags ListFlags) []*Pool {
	chosen := func(yes, no ListFlags, is bool) bool {
		return flags&(yes|no) == 0 || is && flags&yes != 0 || !is && flags&no != 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Pool, 0, len(m.pools))
	for _, p := range m.pools {
		if chosen(ListActive, ListInactive, p.active) && chosen(ListPersistent, ListTransient, p.persistent) &&
			chosen(ListAutostart, ListNoAutostart, p.autostart) && (flags&listTypes == 0 || flags&ListDir != 0) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *Pool) int { return strings.Compare(a.def.name, b.def.name) })
	return out
}

// LookupByName finds a pool.
func (m *Manager) LookupByName(name string) (*Pool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.byName(name); p != nil {
		return p, nil
	}
	return nil, failure(virterr.NoStoragePool, "no storage pool with matching name '%s'", name)
}

// LookupByUUID finds a pool.
func (m *Manager) LookupByUUID(id uuid.UUID) (*Pool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pools[id]; p != nil {
		return p, nil
	}
	return nil, failure(virterr.NoStoragePool, "no storage pool with matching uuid '%s'", id)
}

// LookupByTarget finds the active pool over a directory.
func (m *Manager) LookupByTarget(path string) (*Pool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.byTarget(filepath.Clean(path), uuid.Nil, true); p != nil {
		return p, nil
	}
	return nil, failure(virterr.NoStoragePool, "no storage pool with matching target path '%s'", path)
}

// Define makes a pool persistent, or changes the definition of the one with its UUID; an active pool changes at its next
// start.
func (m *Manager) Define(text string) (*Pool, error) {
	d, err := parsePool(text)
	if err != nil {
		return nil, err
	}
	return m.define(d)
}

func (m *Manager) define(d *definition) (*Pool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.admit(d)
	if err != nil {
		return nil, err
	}
	if err := m.records.save(d); err != nil {
		return nil, err
	}
	if p == nil {
		p = &Pool{m: m, id: d.uuid}
		m.pools[d.uuid] = p
	}
	p.persistent = true
	if p.active {
		p.next = d
	} else {
		p.def, p.next = d, nil
	}
	p.emit(Defined)
	return p, nil
}

// Create starts a pool that is forgotten when it stops, or starts a defined one anew with this document.
func (m *Manager) Create(text string, flags StartFlags) (*Pool, error) {
	d, err := parsePool(text)
	if err != nil {
		return nil, err
	}
	if err := flags.check(); err != nil {
		return nil, err
	}
	p, err := m.admitNew(d)
	if err != nil {
		return nil, err
	}
	p.job.Lock()
	defer p.job.Unlock()
	if err := d.prepare(flags); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if now, err := m.admitInactive(d); err != nil {
		return nil, err
	} else if now != nil {
		p = now // which was defined meanwhile
	}
	if err := p.activate(d); err != nil {
		return nil, err
	}
	m.pools[d.uuid] = p
	return p, nil
}

// admitNew returns the pool that a document is about to start: the stopped one with its UUID, or one that nobody knows yet.
func (m *Manager) admitNew(d *definition) (*Pool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.admitInactive(d)
	if err == nil && p == nil {
		p = &Pool{m: m, id: d.uuid, def: d}
	}
	return p, err
}

// admitInactive is admit for a document that is to be started.
func (m *Manager) admitInactive(d *definition) (*Pool, error) {
	p, err := m.admit(d)
	if err == nil && p != nil && p.active {
		return nil, failure(virterr.OperationInvalid, "pool is already active as '%s'", p.def.name)
	}
	return p, err
}

// admit decides whether a document may become a pool, and returns the one that has its UUID already, if any.
func (m *Manager) admit(d *definition) (*Pool, error) {
	p := m.pools[d.uuid]
	if p != nil && p.def.name != d.name {
		return nil, failure(virterr.OperationFailed, "pool '%s' is already defined with uuid %s", p.def.name, d.uuid)
	}
	if other := m.byName(d.name); other != nil && other != p {
		return nil, failure(virterr.OperationFailed, "pool '%s' already exists with uuid %s", d.name, other.id)
	}
	if other := m.byTarget(d.target, d.uuid, false); other != nil {
		return nil, failure(virterr.OperationFailed, "Storage source conflict with pool: '%s'", other.def.name)
	}
	return p, nil
}

func (m *Manager) byName(name string) *Pool {
	for _, p := range m.pools {
		if p.def.name == name {
			return p
		}
	}
	return nil
}

// byTarget finds a pool over a directory, except the one with that UUID.
func (m *Manager) byTarget(target string, except uuid.UUID, active bool) *Pool {
	for _, p := range m.pools {
		if p.id == except || active && !p.active {
			continue
		}
		if p.def.target == target || !active && p.next != nil && p.next.target == target {
			return p
		}
	}
	return nil
}
