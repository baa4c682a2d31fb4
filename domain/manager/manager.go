package manager

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/domain/store"
	"virtd/driver"
	"virtd/eventbus"
	"virtd/virterr"
)

// Config is what a Manager works with. All fields but the first two have defaults.
type Config struct {
	Driver driver.Driver
	Store  store.Store // the Manager's from now on: its Close closes it

	// Networks are the virtual networks; nil: there are none.
	Networks Networks
	// Volumes are those of the storage pools; nil: there are none.
	Volumes Volumes
	// BootID tells this boot of the host from others; status records of another boot are stale. Empty is
	// /proc/sys/kernel/random/boot_id.
	BootID string
	// AutostartMark is a file that remembers in which boot autostart was done; empty never remembers.
	AutostartMark string
	// SaveDir is where managed save images are kept, by the domain's UUID; "" refuses managed saves.
	SaveDir string
	// Emulator is the engine's path shown in <emulator>; empty is domain.DefaultEmulator.
	Emulator string
	Log      *slog.Logger

	JobTimeout  time.Duration // to get a domain's job; 0 is 30 s
	CallTimeout time.Duration // for one answer of an engine; 0 is 10 s
	DetachWait  time.Duration // for a guest to let go of a device before detach answers without that; 0 is 5 s
	QuitTimeout time.Duration // for an engine to leave when asked, before it is killed; 0 is 10 s
}

// Manager is the running set. All methods are safe for concurrent use. Make one with New, then Open it.
type Manager struct {
	cfg    Config
	log    *slog.Logger
	events *eventbus.Bus[Event]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // restarts and other work of the Manager's own

	mu     sync.Mutex // guards the maps; taken before a Domain's mu
	byUUID map[uuid.UUID]*Domain
	byName map[string]*Domain
	byID   map[int]*Domain
	order  []*Domain // the visible ones by name; nil: to be made again, see byNames
	lastID int
}

// New returns a Manager that knows no domain yet.
func New(cfg Config) (*Manager, error) {
	if cfg.BootID == "" {
		id, err := bootID()
		if err != nil {
			return nil, err
		}
		cfg.BootID = id
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	setDefault(&cfg.JobTimeout, 30*time.Second)
	setDefault(&cfg.CallTimeout, 10*time.Second)
	setDefault(&cfg.DetachWait, 5*time.Second)
	setDefault(&cfg.QuitTimeout, 10*time.Second)
	m := &Manager{
		cfg: cfg, log: cfg.Log, events: eventbus.New[Event](),
		byUUID: map[uuid.UUID]*Domain{}, byName: map[string]*Domain{}, byID: map[int]*Domain{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// Close lets go of every engine, which runs on, delivers the events that are queued, and returns when all work of the
// Manager has ended. No other method may be called after it.
func (m *Manager) Close() {
	m.cancel()
	m.releaseAll() // no events from here on, so nothing starts new work
	m.wg.Wait()
	m.releaseAll() // what a restart that was under way made
	m.events.Close()
	if err := m.cfg.Store.Close(); err != nil {
		m.log.Error("cannot close the store of definitions; what is in its journal is there at the next start", "err", err)
	}
}

func (m *Manager) releaseAll() {
	for _, d := range m.byNames() {
		d.release()
	}
}

// parseOptions are how this host reads domain XML.
func (m *Manager) parseOptions() domain.Options { return domain.Options{Emulator: m.cfg.Emulator} }

// LookupByName finds a domain. NoDomain if there is none.
func (m *Manager) LookupByName(name string) (*Domain, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.byName[name]; d != nil && d.visible && d.Name() == name { // another name is one that Rename holds for it
		return d, nil
	}
	return nil, virterr.New(virterr.NoDomain, "no domain with matching name '%s'", name)
}

// LookupByUUID finds a domain. NoDomain if there is none.
func (m *Manager) LookupByUUID(id uuid.UUID) (*Domain, error) {
	return m.Domain(Ref{UUID: id})
}

// LookupByID finds a running domain by its number. NoDomain if there is none.
func (m *Manager) LookupByID(id int) (*Domain, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.byID[id]; d != nil && d.visible {
		return d, nil
	}
	return nil, virterr.New(virterr.NoDomain, "no domain with matching id '%d'", id)
}

// Domain finds the domain that a client means: by its UUID. The name is only for the error's text.
func (m *Manager) Domain(ref Ref) (*Domain, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.byUUID[ref.UUID]; d != nil && d.visible {
		return d, nil
	}
	if ref.Name == "" {
		return nil, virterr.New(virterr.NoDomain, "no domain with matching uuid '%s'", ref.UUID)
	}
	return nil, virterr.New(virterr.NoDomain, "no domain with matching uuid '%s' (%s)", ref.UUID, ref.Name)
}

// claim finds the domain that def names, or makes one that nobody sees yet, and takes its job. The caller ends the job,
// and calls reveal or forget on a new one. It fails when name and UUID belong to different domains.
func (m *Manager) claim(ctx context.Context, def *domain.Definition, what string) (*Domain, *job, error) {
	for {
		m.mu.Lock()
		d, err := m.match(def)
		if err != nil {
			m.mu.Unlock()
			return nil, nil, err
		}
		if d == nil {
			d = newDomain(m, def.UUID(), def.Name())
			m.byUUID[d.uuid], m.byName[d.Name()] = d, d
		}
		m.mu.Unlock()
		j, err := d.begin(ctx, what)
		if err == nil && d.Name() == def.Name() {
			return d, j, nil
		}
		if err == nil { // it was renamed while we waited
			j.end()
			continue
		}
		if !virterr.Is(err, virterr.NoDomain) { // it went away while we waited: look again
			return nil, nil, err
		}
	}
}

// match finds the domain def would replace. The caller holds m.mu.
func (m *Manager) match(def *domain.Definition) (*Domain, error) {
	d := m.byUUID[def.UUID()]
	if d != nil && d.Name() != def.Name() {
		return nil, virterr.New(virterr.OperationFailed, "domain '%s' is already defined with uuid %s", d.Name(), d.uuid)
	}
	if other := m.byName[def.Name()]; other != nil && other != d {
		return nil, virterr.New(virterr.OperationFailed, "domain '%s' already exists with uuid %s", other.Name(), other.uuid)
	}
	return d, nil
}

// reveal makes a domain visible to lookups and lists.
func (m *Manager) reveal(d *Domain) {
	m.mu.Lock()
	d.visible, m.order = true, nil
	m.mu.Unlock()
}

// forget removes a domain from the set. Handles to it answer NoDomain from now on.
func (m *Manager) forget(d *Domain) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removed = true
	m.order = nil
	delete(m.byUUID, d.uuid)
	delete(m.byName, d.Name())
	if m.byID[d.id] == d {
		delete(m.byID, d.id)
	}
}

// takeID gives d the next number; dropID takes it back.
func (m *Manager) takeID(d *Domain) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastID++
	m.byID[m.lastID] = d
	return m.lastID
}

func (m *Manager) dropID(id int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byID, id)
}
