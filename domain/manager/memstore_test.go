package manager

import (
	"errors"
	"sort"
	"sync"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/domain/store"
	"virtd/virterr"
)

// memStore is a store in memory. fail makes every change fail.
type memStore struct {
	mu       sync.Mutex
	defs     map[uuid.UUID]*domain.Definition
	auto     map[uuid.UUID]bool
	statuses map[uuid.UUID]store.Status
	fail     bool
}

var errStore = errors.New("the disk is full")

func newMemStore() *memStore {
	return &memStore{defs: map[uuid.UUID]*domain.Definition{}, auto: map[uuid.UUID]bool{}, statuses: map[uuid.UUID]store.Status{}}
}

func (s *memStore) entry(d *domain.Definition) store.Entry {
	return store.Entry{
		UUID: d.UUID(), Name: d.Name(), Title: d.Title(), Autostart: s.auto[d.UUID()], Memory: d.Memory(),
		CurrentMemory: d.CurrentMemory(), VCPUs: d.VCPUs(), CurrentVCPUs: d.CurrentVCPUs(),
	}
}

func (s *memStore) Entries() []store.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []store.Entry
	for _, d := range s.defs {
		list = append(list, s.entry(d))
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

func (s *memStore) Entry(id uuid.UUID) (store.Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.defs[id]
	if !ok {
		return store.Entry{}, false
	}
	return s.entry(d), true
}

func (s *memStore) ByName(name string) (store.Entry, bool) {
	for _, e := range s.Entries() {
		if e.Name == name {
			return e, true
		}
	}
	return store.Entry{}, false
}

func (s *memStore) Load(id uuid.UUID) (*domain.Definition, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.defs[id]; ok {
		return d, nil
	}
	return nil, virterr.New(virterr.NoDomain, "no definition %s", id)
}

func (s *memStore) Save(d *domain.Definition) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return errStore
	}
	s.defs[d.UUID()] = d
	return nil
}

func (s *memStore) Delete(id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return errStore
	}
	delete(s.defs, id)
	delete(s.auto, id)
	return nil
}

func (s *memStore) SetAutostart(id uuid.UUID, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return errStore
	}
	s.auto[id] = on
	return nil
}

func (s *memStore) SaveStatus(st store.Status) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return errStore
	}
	s.statuses[st.UUID] = st
	return nil
}

func (s *memStore) DeleteStatus(id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.statuses, id)
	return nil
}

func (s *memStore) Statuses() ([]store.Status, []store.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []store.Status
	for _, st := range s.statuses {
		list = append(list, st)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	return list, nil
}

func (s *memStore) Problems() []store.Problem { return nil }

func (s *memStore) Close() error { return nil }
