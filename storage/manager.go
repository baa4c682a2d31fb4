package storage

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"virtd/durable/definitions"
	"virtd/eventbus"
	"virtd/virterr"
)

// Config is what a Manager works with.
type Config struct {
	State string       // definitions; survives a boot of the host
	Run   string       // records of active pools; does not
	Host  Host         // nil: Local
	Log   *slog.Logger // nil: slog.Default
}

// Manager is all storage pools of a host. Its methods are safe for concurrent use; errors that a user can cause are
// *virterr.Error.
type Manager struct {
	log     *slog.Logger
	host    Host
	records *definitions.Store[*definition]
	events  *eventbus.Bus[Event]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

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
	if cfg.Host == nil {
		cfg.Host = Local{}
	}
	m := &Manager{log: cfg.Log, host: cfg.Host, records: r, pools: map[uuid.UUID]*Pool{}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if err := m.load(); err != nil {
		m.cancel()
		return nil, err
	}
	m.findRunning()
	m.events = eventbus.New[Event]()
	return m, nil
}

// programTime is how long the host's programs may take for one call. A filesystem is made in minutes on a slow disk.
const programTime = 10 * time.Minute

// program returns the context of a call that may run the host's programs. A client that leaves does not end it: half of what
// they do is worse than all of it.
func (m *Manager) program() (context.Context, context.CancelFunc) {
	return context.WithTimeout(m.ctx, programTime)
}

// findRunning asks the host whether the pools that are active on record still are.
func (m *Manager) findRunning() {
	ctx, cancel := context.WithTimeout(m.ctx, runningTime)
	defer cancel()
	for _, p := range m.pools {
		if !p.active {
			continue
		}
		running, err := p.backend.running(ctx)
		if err != nil {
			m.log.Error("cannot look after an active storage pool", "pool", p.def.name, "error", err)
		}
		if running || err != nil {
			continue
		}
		m.log.Warn("a storage pool is not active any more: somebody else stopped it", "pool", p.def.name)
		if err := m.records.SetInactive(p.id); err != nil {
			m.log.Error("cannot note that a storage pool is inactive", "pool", p.def.name, "error", err)
		}
		p.active = false
		switch {
		case !p.persistent:
			delete(m.pools, p.id)
		case p.next != nil:
			p.use(p.next)
			p.next = nil
		}
	}
}

// runningTime is how long virtd's start may wait for LVM to say what is active.
const runningTime = 30 * time.Second

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
	defined, problems, err := m.records.Defined()
	if err != nil {
		return err
	}
	active, more, err := m.records.Active()
	if err != nil {
		return err
	}
	for _, p := range append(problems, more...) {
		m.log.Error("a pool's file is left alone because it cannot be understood", "file", p.Path, "error", p.Err)
	}
	for _, d := range defined {
		if other := m.byName(d.name); other != nil {
			m.log.Error("two files define a pool of that name; rename one", "pool", d.name, "kept", other.id, "left", d.uuid)
			continue
		}
		p := &Pool{m: m, id: d.uuid, persistent: true, autostart: m.records.Autostart(d.uuid)}
		p.use(d)
		m.pools[d.uuid] = p
	}
	for _, d := range active {
		p := m.pools[d.uuid]
		if p == nil {
			if m.byName(d.name) != nil {
				continue
			}
			p = &Pool{m: m, id: d.uuid}
			m.pools[d.uuid] = p
		} else if p.def.xml(poolSizes{}, p.def.perms) != d.xml(poolSizes{}, d.perms) {
			p.next = p.def
		}
		p.use(d)
		p.active = true
	}
	return nil
}

// Close ends the programs that run and the delivery of events. Pools stay active for the next Manager.
func (m *Manager) Close() {
	m.cancel()
	m.events.Close()
}

// Subscribe calls f with every event from now on, in order, one at a time. f must not block. The returned function ends the
// subscription and must not be called from f.
func (m *Manager) Subscribe(f func(Event)) (cancel func()) { return m.events.Subscribe(f) }

// FlushEvents returns when every event of before has been delivered. It must not be called from a subscriber.
func (m *Manager) FlushEvents() { m.events.Flush() }

// Autostart starts the pools that are marked for it, once for each boot of the host: a pool that somebody stopped stays
// stopped when virtd is restarted.
func (m *Manager) Autostart() {
	if m.records.Autostarted() {
		return
	}
	for _, p := range m.List(ListInactive | ListAutostart) {
		if err := p.Start(0); err != nil && !virterr.Is(err, virterr.OperationInvalid) {
			m.log.Error("cannot autostart a storage pool", "pool", p.Name(), "error", err)
		}
	}
	if err := m.records.NoteAutostarted(); err != nil {
		m.log.Error("cannot note that pools were autostarted", "error", err)
	}
}

// EnsureDefault makes the pool named default over a directory, started and marked for autostart, if that never happened
// before and no pool has that name or directory.
func (m *Manager) EnsureDefault(target string) error {
	if made, err := m.records.DefaultMade(); made || err != nil {
		return err
	}
	m.mu.Lock()
	taken := m.byName("default") != nil || m.byTarget(filepath.Clean(target), uuid.Nil, false) != nil
	m.mu.Unlock()
	if !taken {
		d := &definition{kind: kindDir, uuid: uuid.New(), name: "default", target: filepath.Clean(target), perms: noPermissions()}
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
	return m.records.NoteDefaultMade()
}

// ListFlags choose pools (virConnectListAllStoragePoolsFlags). In each group of bits none means all.
type ListFlags uint32

// The flags that pools here differ in. Beyond them are types of which there are none.
const (
	ListInactive    ListFlags = 1 << 0
	ListActive      ListFlags = 1 << 1
	ListPersistent  ListFlags = 1 << 2
	ListTransient   ListFlags = 1 << 3
	ListAutostart   ListFlags = 1 << 4
	ListNoAutostart ListFlags = 1 << 5
	ListDir         ListFlags = 1 << 6
	ListFS          ListFlags = 1 << 7
	ListLogical     ListFlags = 1 << 9
	listTypes       ListFlags = (1<<20 - 1) &^ (1<<6 - 1)

	// ListKnown is every flag that libvirt has.
	ListKnown ListFlags = 1<<20 - 1
)

// listType is the flag of each type.
var listType = map[string]ListFlags{kindDir: ListDir, kindFS: ListFS, kindLogical: ListLogical}

// List returns the pools that the flags choose, by name.
func (m *Manager) List(flags ListFlags) []*Pool {
	chosen := func(yes, no ListFlags, is bool) bool {
		return flags&(yes|no) == 0 || is && flags&yes != 0 || !is && flags&no != 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Pool, 0, len(m.pools))
	for _, p := range m.pools {
		if !p.hidden() && chosen(ListActive, ListInactive, p.active) && chosen(ListPersistent, ListTransient, p.persistent) &&
			chosen(ListAutostart, ListNoAutostart, p.autostart) && (flags&listTypes == 0 || flags&listType[p.def.kind] != 0) {
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
	if p := m.byName(name); p != nil && !p.hidden() {
		return p, nil
	}
	return nil, failure(virterr.NoStoragePool, "no storage pool with matching name '%s'", name)
}

// LookupByUUID finds a pool.
func (m *Manager) LookupByUUID(id uuid.UUID) (*Pool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pools[id]; p != nil && !p.hidden() {
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
	if err := m.records.Save(d); err != nil {
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
		p.use(d)
		p.next = nil
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
	p, err := m.beginCreate(d)
	if err != nil {
		return nil, err
	}
	p.job.Lock()
	defer p.job.Unlock()
	b := m.backend(d)
	if err = p.stillInactive(); err == nil {
		err = m.bring(d, b, flags)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		if p.coming = nil; p.def == d {
			delete(m.pools, p.id) // nobody has seen it
		}
		return nil, err
	}
	p.activate(d, b)
	return p, nil
}

// stillInactive fails when the pool was started, or went away, while Create waited for it.
func (p *Pool) stillInactive() error {
	_, _, err := p.inactive("already")
	return err
}

// beginCreate returns the pool that a document is about to start: the stopped one with its UUID, or a new one, which is
// there to keep others from its name and source and which nobody sees.
func (m *Manager) beginCreate(d *definition) (*Pool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.admit(d)
	switch {
	case err != nil:
		return nil, err
	case p != nil && p.active:
		return nil, failure(virterr.OperationInvalid, "pool is already active as '%s'", p.def.name)
	case p == nil:
		p = &Pool{m: m, id: d.uuid}
		p.use(d)
		m.pools[d.uuid] = p
	}
	p.coming = d
	return p, nil
}

// hidden reports whether the pool is only about to be; the manager's lock is held.
func (p *Pool) hidden() bool { return p.coming == p.def && !p.active }

// admit decides whether a document may become a pool, and returns the one that has its UUID already, if any.
func (m *Manager) admit(d *definition) (*Pool, error) {
	p := m.pools[d.uuid]
	if p != nil && p.def.name != d.name {
		return nil, failure(virterr.OperationFailed, "pool '%s' is already defined with uuid %s", p.def.name, d.uuid)
	}
	if p != nil && p.coming != nil {
		return nil, failure(virterr.OperationInvalid, "pool '%s' is being started", p.def.name)
	}
	if other := m.byName(d.name); other != nil && other != p {
		return nil, failure(virterr.OperationFailed, "pool '%s' already exists with uuid %s", d.name, other.id)
	}
	for _, other := range m.pools {
		for _, o := range []*definition{other.def, other.next, other.coming} {
			if other != p && o != nil && (o.target == d.target || d.sharesSource(o)) {
				return nil, failure(virterr.OperationFailed, "Storage source conflict with pool: '%s'", other.def.name)
			}
		}
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
