package secret

import (
	"bytes"
	"cmp"
	"log/slog"
	"slices"
	"sync"

	"github.com/google/uuid"

	"virtd/virterr"
)

// Config is what a Manager works with.
type Config struct {
	State string       // the directory; survives a boot of the host
	Log   *slog.Logger // nil: slog.Default
}

// Manager is all secrets of a host. Its methods are safe for concurrent use; errors that a user can cause are *virterr.Error.
type Manager struct {
	records records

	mu      sync.Mutex // guards what is below, and is held while files are written: changes are rare
	secrets map[uuid.UUID]*stored
	watch   map[int]func(Event)
	next    int
}

// EventKind is what happened to a secret.
type EventKind int

// The kinds. The first two are libvirt's lifecycle events, with their numbers (virSecretEventLifecycleType).
const (
	EventDefined EventKind = iota
	EventUndefined
	EventValueChanged
)

// Event tells of a secret as it is after the event, or was before it was undefined.
type Event struct {
	Kind   EventKind
	Secret Definition
}

// Open reads the secrets that are on disk.
func Open(cfg Config) (*Manager, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	r, err := openRecords(cfg.State)
	if err != nil {
		return nil, err
	}
	m := &Manager{records: r, secrets: map[uuid.UUID]*stored{}, watch: map[int]func(Event){}}
	list, problems, err := r.read()
	if err != nil {
		return nil, err
	}
	for _, p := range problems {
		cfg.Log.Error("a secret's file is left alone because it cannot be understood", "error", p)
	}
	for _, s := range list {
		m.secrets[s.def.UUID] = &s
	}
	return m, nil
}

// Subscribe calls f with every event from now on, in order, one at a time. f must not block or call the Manager. The returned
// function ends the subscription.
func (m *Manager) Subscribe(f func(Event)) (cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.next
	m.next++
	m.watch[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watch, id)
	}
}

// tell delivers an event. The caller holds m.mu, which orders them.
func (m *Manager) tell(kind EventKind, d Definition) {
	for _, f := range m.watch {
		f(Event{kind, d})
	}
}

// List returns the secrets in the order of their UUIDs.
func (m *Manager) List() []Definition {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Definition, 0, len(m.secrets))
	for _, s := range m.secrets {
		list = append(list, s.def)
	}
	slices.SortFunc(list, func(a, b Definition) int { return cmp.Compare(a.UUID.String(), b.UUID.String()) })
	return list
}

// Lookup finds a secret. NoSecret if there is none.
func (m *Manager) Lookup(id uuid.UUID) (Definition, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find(id)
	if err != nil {
		return Definition{}, err
	}
	return s.def, nil
}

// find is Lookup for callers that hold m.mu.
func (m *Manager) find(id uuid.UUID) (*stored, error) {
	if s := m.secrets[id]; s != nil {
		return s, nil
	}
	return nil, failure(virterr.NoSecret, "no secret with matching uuid '%s'", id)
}

// LookupByUsage finds the secret that is for something. NoSecret if there is none.
func (m *Manager) LookupByUsage(usage UsageType, id string) (Definition, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.usedFor(usage, id); s != nil {
		return s.def, nil
	}
	return Definition{}, failure(virterr.NoSecret, "no secret with matching usage '%s'", id)
}

func (m *Manager) usedFor(usage UsageType, id string) *stored {
	for _, s := range m.secrets {
		if s.def.Usage == usage && usage != UsageNone && s.def.UsageID == id {
			return s
		}
	}
	return nil
}

// Define adds a secret, or changes the one with its UUID, which keeps its value. It is durable when Define returns, unless it
// is ephemeral.
func (m *Manager) Define(text string) (Definition, error) {
	d, err := Parse(text)
	if err != nil {
		return d, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.secrets[d.UUID]
	if err := m.definable(d, old); err != nil {
		return d, err
	}
	s := &stored{def: d}
	if old != nil {
		s.value = old.value
	}
	if err := m.store(s, old); err != nil {
		return d, err
	}
	m.secrets[d.UUID] = s
	m.tell(EventDefined, d)
	return d, nil
}

// definable refuses two secrets for one thing, and what would give away a secret.
func (m *Manager) definable(d Definition, old *stored) error {
	if other := m.usedFor(d.Usage, d.UsageID); other != nil && other != old {
		return failure(virterr.InternalError, "a secret with UUID %s already defined for use with %s", other.def.UUID, d.UsageID)
	}
	switch {
	case old == nil:
		return nil
	case old.def.UsageID != d.UsageID || old.def.Usage != d.Usage:
		return failure(virterr.InternalError, "a secret with UUID %s is already defined for use with %s", d.UUID, old.def.UsageID)
	case old.def.Private && !d.Private:
		return failure(virterr.InternalError, "cannot change private flag on existing secret")
	}
	return nil
}

// store makes a definition durable, and its value where the secret was ephemeral before.
func (m *Manager) store(s, old *stored) error {
	if s.def.Ephemeral {
		if old != nil && !old.def.Ephemeral {
			return m.records.remove(s.def.UUID)
		}
		return nil
	}
	if err := m.records.saveDefinition(s.def); err != nil {
		return err
	}
	if old != nil && old.def.Ephemeral && s.value != nil {
		return m.records.saveValue(s.def.UUID, s.value)
	}
	return nil
}

// Undefine removes a secret and its value.
func (m *Manager) Undefine(id uuid.UUID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find(id)
	if err != nil {
		return err
	}
	if !s.def.Ephemeral {
		if err := m.records.remove(id); err != nil {
			return err
		}
	}
	delete(m.secrets, id)
	m.tell(EventUndefined, s.def)
	return nil
}

// SetValue gives a secret its value, of at most MaxValue bytes. The Manager keeps a copy.
func (m *Manager) SetValue(id uuid.UUID, value []byte) error {
	if len(value) > MaxValue {
		return failure(virterr.InvalidArg, "a secret of %d bytes is longer than %d", len(value), MaxValue)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find(id)
	if err != nil {
		return err
	}
	if !s.def.Ephemeral {
		if err := m.records.saveValue(id, value); err != nil {
			return err
		}
	}
	s.value = append([]byte{}, value...)
	m.tell(EventValueChanged, s.def)
	return nil
}

// Value returns a copy of a secret's value, for virtd's own use. NoSecret if none was set.
func (m *Manager) Value(id uuid.UUID) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find(id)
	if err != nil {
		return nil, err
	}
	if s.value == nil {
		return nil, failure(virterr.NoSecret, "secret '%s' does not have a value", id)
	}
	return bytes.Clone(s.value), nil
}

// Reveal is Value for clients: it refuses private secrets.
func (m *Manager) Reveal(id uuid.UUID) ([]byte, error) {
	d, err := m.Lookup(id)
	if err != nil {
		return nil, err
	}
	if d.Private {
		return nil, failure(virterr.InvalidSecret, "secret is private")
	}
	return m.Value(id)
}
