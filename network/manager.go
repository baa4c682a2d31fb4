package network

import (
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"virtd/eventbus"
	"virtd/virterr"
)

// Config is what a Manager works with.
type Config struct {
	State string // definitions; survives a boot of the host
	Run   string // records of active networks and ports; does not
	Host  Host
	Log   *slog.Logger // nil: slog.Default
}

// Manager is all virtual networks of a host. Its methods are safe for concurrent use; errors that a user can cause are
// *virterr.Error.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	records *records
	events  *eventbus.Bus[Event]

	// change is held while the host or a definition is changed, so that no two networks get one bridge, subnet or rule.
	// It is taken before mu, which is never held while the host is changed: lists and lookups do not wait.
	change sync.Mutex

	// choosing is held while a port gets a virtual function, from looking for a free one to having it on record. It is taken
	// before mu.
	choosing sync.Mutex

	mu       sync.Mutex // guards what is below, and what Network says it guards
	networks map[uuid.UUID]*Network
	ports    map[uuid.UUID]*Port
}

// Open reads the definitions, and finds the networks that the last virtd had active. What of these is missing on the host is
// made again.
func Open(cfg Config) (*Manager, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	r, err := openRecords(cfg.State, cfg.Run)
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, log: cfg.Log, records: r, networks: map[uuid.UUID]*Network{}, ports: map[uuid.UUID]*Port{}}
	if err := m.load(); err != nil {
		return nil, err
	}
	m.events = eventbus.New[Event]()
	m.resume()
	return m, nil
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
	ports, broken := m.records.ports()
	for _, p := range slices.Concat(problems, more, broken) {
		m.log.Error("a network's file is left alone because it cannot be understood", "file", p.Path, "error", p.Err)
	}
	for _, d := range defined {
		if other := m.byName(d.name); other != nil {
			m.log.Error("two files define a network of that name; rename one", "network", d.name, "kept", other.id, "left", d.uuid)
			continue
		}
		m.networks[d.uuid] = &Network{m: m, id: d.uuid, def: d, persistent: true, autostart: m.records.Autostart(d.uuid)}
	}
	for _, d := range active {
		n := m.networks[d.uuid]
		if n == nil {
			if m.byName(d.name) != nil {
				continue
			}
			n = &Network{m: m, id: d.uuid}
			m.networks[d.uuid] = n
		} else if n.def.xml() != d.xml() {
			n.next = n.def
		}
		n.def, n.active = d, true
	}
	for _, p := range ports {
		m.ports[p.UUID] = p
		if n := m.networks[p.Network]; p.Client && (n == nil || !n.active) { // the last virtd was killed while it stopped the network
			m.dropOrphan(p)
		}
	}
	return nil
}

// Close ends the delivery of events. Networks stay active for the next Manager.
func (m *Manager) Close() { m.events.Close() }

// Subscribe calls f with every event from now on, in order, one at a time. f must not block. The returned function ends the
// subscription and must not be called from f.
func (m *Manager) Subscribe(f func(Event)) (cancel func()) { return m.events.Subscribe(f) }

// FlushEvents returns when every event of before has been delivered. It must not be called from a subscriber.
func (m *Manager) FlushEvents() { m.events.Flush() }

// Autostart starts the networks that are marked for it, once for each boot of the host: a network that somebody stopped stays
// stopped when virtd is restarted.
func (m *Manager) Autostart() {
	if m.records.Autostarted() {
		return
	}
	for _, n := range m.List(ListInactive | ListAutostart) {
		if err := n.Start(); err != nil {
			m.log.Error("cannot autostart a network", "network", n.Name(), "error", err)
		}
	}
	if err := m.records.NoteAutostarted(); err != nil {
		m.log.Error("cannot note that networks were autostarted", "error", err)
	}
}

// EnsureDefault defines the NAT network named default, if that never happened before and no network has that name. Its subnet
// is one that the host and other networks do not use. It is not started: the first domain that names it does that.
func (m *Manager) EnsureDefault() error {
	if made, err := m.records.DefaultMade(); made || err != nil {
		return err
	}
	if _, err := m.LookupByName("default"); err != nil {
		text, err := m.defaultNetwork()
		if err != nil {
			return err
		}
		if _, err := m.Define(text); err != nil {
			return err
		}
	}
	return m.records.NoteDefaultMade()
}

// ListFlags choose networks (virConnectListAllNetworksFlags). In each pair of bits none means both.
type ListFlags uint32

// The flags of List.
const (
	ListInactive    ListFlags = 1 << 0
	ListActive      ListFlags = 1 << 1
	ListPersistent  ListFlags = 1 << 2
	ListTransient   ListFlags = 1 << 3
	ListAutostart   ListFlags = 1 << 4
	ListNoAutostart ListFlags = 1 << 5

	// ListKnown is every flag that libvirt has.
	ListKnown ListFlags = 1<<6 - 1
)

// List returns the networks that the flags choose, by name.
func (m *Manager) List(flags ListFlags) []*Network {
	chosen := func(yes, no ListFlags, is bool) bool {
		return flags&(yes|no) == 0 || is && flags&yes != 0 || !is && flags&no != 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Network, 0, len(m.networks))
	for _, n := range m.networks {
		if chosen(ListActive, ListInactive, n.active) && chosen(ListPersistent, ListTransient, n.persistent) &&
			chosen(ListAutostart, ListNoAutostart, n.autostart) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *Network) int { return strings.Compare(a.def.name, b.def.name) })
	return out
}

// LookupByName finds a network.
func (m *Manager) LookupByName(name string) (*Network, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.byName(name); n != nil {
		return n, nil
	}
	return nil, failure(virterr.NoNetwork, "no network with matching name '%s'", name)
}

// LookupByUUID finds a network.
func (m *Manager) LookupByUUID(id uuid.UUID) (*Network, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.networks[id]; n != nil {
		return n, nil
	}
	return nil, failure(virterr.NoNetwork, "no network with matching uuid '%s'", id)
}

// Define makes a network persistent, or changes the definition of the one with its UUID; an active network changes at its
// next start.
func (m *Manager) Define(text string) (*Network, error) {
	d, err := parse(text)
	if err != nil {
		return nil, err
	}
	m.change.Lock()
	defer m.change.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.admit(d)
	if err != nil {
		return nil, err
	}
	if d, err = m.assign(d, n); err != nil {
		return nil, err
	}
	if err := m.records.Save(d); err != nil {
		return nil, err
	}
	if n == nil {
		n = &Network{m: m, id: d.uuid}
		m.networks[d.uuid] = n
	}
	n.persistent = true
	if n.active {
		n.next = d
	} else {
		n.def, n.next = d, nil
	}
	n.emit(Defined)
	return n, nil
}

// Create starts a network that is forgotten when it stops, or starts a defined one anew with this document.
func (m *Manager) Create(text string) (*Network, error) {
	d, err := parse(text)
	if err != nil {
		return nil, err
	}
	m.change.Lock()
	defer m.change.Unlock()
	n, d, err := m.admitInactive(d)
	if err != nil {
		return nil, err
	}
	if err := n.activate(d); err != nil {
		return nil, err
	}
	return n, nil
}

// admitInactive returns the network that a document is about to start: the stopped one with its UUID, or one that nobody
// knows yet.
func (m *Manager) admitInactive(d *definition) (*Network, *definition, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.admit(d)
	if err == nil && n != nil && n.active {
		err = failure(virterr.OperationInvalid, "network is already active as '%s'", n.def.name)
	}
	if err == nil {
		d, err = m.assign(d, n)
	}
	if err != nil {
		return nil, nil, err
	}
	if n == nil {
		n = &Network{m: m, id: d.uuid, def: d}
	}
	return n, d, nil
}

// admit decides whether a document may become a network, and returns the one that has its UUID already, if any. The
// manager's lock is held.
func (m *Manager) admit(d *definition) (*Network, error) {
	n := m.networks[d.uuid]
	if n != nil && n.def.name != d.name {
		return nil, failure(virterr.OperationFailed, "network '%s' is already defined with uuid %s", n.def.name, d.uuid)
	}
	if other := m.byName(d.name); other != nil && other != n {
		return nil, failure(virterr.OperationFailed, "network '%s' already exists with uuid %s", d.name, other.id)
	}
	return n, nil
}

func (m *Manager) byName(name string) *Network {
	for _, n := range m.networks {
		if n.def.name == name {
			return n
		}
	}
	return nil
}

// remove forgets a network that is neither defined nor active; the manager's lock is held.
func (m *Manager) remove(n *Network) {
	delete(m.networks, n.id)
	if err := m.cfg.Host.ForgetLeases(n.id); err != nil {
		m.log.Error("cannot remove the leases of a network that is gone", "network", n.def.name, "error", err)
	}
}
