package dirtylog

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"virtd/hypervisor/kvm"
	"virtd/hypervisor/memory"
)

// ErrActive is returned (wrapped) by Start while the record is in use.
var ErrActive = errors.New("what is written to guest memory is recorded already")

var (
	errStopped = errors.New("what is written to guest memory is not recorded")
	errClosed  = errors.New("the machine has ended")
)

// Slots is the part of a virtual machine that maps RAM and records what vCPUs write: kvm.VM.
type Slots interface {
	SetMemory(slot int, gpa uint64, host []byte, flags uint32) error
	DirtyLog(slot int, bitmap []uint64) error
}

// Source is something that writes guest RAM and whose writes only it knows. A Tracker never calls two methods of one at a
// time.
type Source interface {
	// StartDirtyLog begins to record. An error says why that is not possible, and leaves things as they were.
	StartDirtyLog() error
	// StopDirtyLog ends recording and forgets what was recorded.
	StopDirtyLog() error
	// ReadDirty sets the bits in bitmap of those of the pages, memory.PageSize bytes each from the guest address gpa on, that
	// may have been written since the last call, and forgets them. Bit i%64 of word i/64 is page i; other bits stay. It is
	// called for a whole region of RAM.
	ReadDirty(gpa, pages uint64, bitmap []uint64) error
}

// member is a Source of a Tracker.
type member struct {
	Source
	name    string // for errors
	records bool   // its part of the record runs
}

func (s *member) start() error {
	if err := s.StartDirtyLog(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.records = true
	return nil
}

func (s *member) stop() error {
	if !s.records {
		return nil
	}
	s.records = false
	if err := s.StopDirtyLog(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// Tracker is the record of one machine. Its methods are safe for concurrent use and wait for each other.
type Tracker struct {
	slots Slots
	mem   *memory.Memory

	mu      sync.Mutex
	sources []*member
	active  bool
	closed  bool
	blind   error      // why the record misses something since Start; nil if it does not
	dirty   [][]uint64 // by region: what was gathered and not read yet
	scratch []uint64   // room for the largest region
}

// New maps RAM into the virtual machine, region i as slot i, and returns its record, which does not run yet.
func New(slots Slots, mem *memory.Memory) (*Tracker, error) {
	t := &Tracker{slots: slots, mem: mem}
	return t, t.mapRAM(0)
}

// mapRAM sets the flags of all slots. It changes as many as it can.
func (t *Tracker) mapRAM(flags uint32) error {
	var errs []error
	for slot, r := range t.mem.Regions() {
		errs = append(errs, t.slots.SetMemory(slot, r.GPA, r.Host, flags))
	}
	return errors.Join(errs...)
}

// Add makes a source part of the record; name is the device's. While the record runs, a source that cannot join does not fail
// what brings it: Read fails from then on.
func (t *Tracker) Add(name string, s Source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	added := &member{Source: s, name: name}
	t.sources = append(t.sources, added)
	if !t.active {
		return
	}
	if err := added.start(); err != nil {
		t.miss(fmt.Errorf("a device came: %w", err))
	}
}

// Remove takes a source out of the record, which keeps what the source has written. The source must be quiet already. One that
// is not there is fine.
func (t *Tracker) Remove(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.sources, func(s *member) bool { return s.name == name })
	if i < 0 {
		return
	}
	s := t.sources[i]
	t.sources = slices.Delete(t.sources, i, i+1)
	if !s.records {
		return
	}
	if err := errors.Join(t.gatherFrom(s), s.stop()); err != nil {
		t.miss(fmt.Errorf("a device went: %w", err))
	}
}

// miss notes that the record is not complete.
func (t *Tracker) miss(err error) {
	if t.blind == nil {
		t.blind = err
	}
}

// Start begins to record, whether vCPUs run or not. It fails with ErrActive when the record is in use, and names the device
// whose writes nobody can tell; then nothing is recorded.
func (t *Tracker) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errClosed
	case t.active:
		return ErrActive
	}
	t.makeRoom()
	t.mem.StartDirtyLog()
	err := t.mapRAM(kvm.MemLogDirty)
	for i := 0; err == nil && i < len(t.sources); i++ {
		err = t.sources[i].start()
	}
	if err != nil {
		return errors.Join(err, t.end())
	}
	t.active, t.blind = true, nil
	return nil
}

// makeRoom allocates the bitmaps of a record.
func (t *Tracker) makeRoom() {
	most := 0
	t.dirty = nil
	for _, r := range t.mem.Regions() {
		words := int(r.Size/memory.PageSize+63) / 64
		t.dirty = append(t.dirty, make([]uint64, words))
		most = max(most, words)
	}
	t.scratch = make([]uint64, most)
}

// Read calls visit for each region of RAM, in address order, with the pages that were written since Start or the last Read, as
// in Source.ReadDirty, and forgets them. The bitmap is valid until visit returns. When it fails nothing is forgotten, and
// visit was not called; the error is nil only if the record has all writes since Start.
func (t *Tracker) Read(visit func(gpa uint64, bitmap []uint64)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.active:
		return errStopped
	case t.blind != nil:
		return t.blind
	}
	if err := t.gather(); err != nil {
		return err
	}
	for i, r := range t.mem.Regions() {
		visit(r.GPA, t.dirty[i])
		clear(t.dirty[i])
	}
	return nil
}

// gather adds what everybody wrote to dirty. Sources come before the host's own record, because some pass theirs on to it.
func (t *Tracker) gather() error {
	for _, s := range t.sources {
		if err := t.gatherFrom(s); err != nil {
			return err
		}
	}
	for i := range t.dirty {
		vcpus := t.scratch[:len(t.dirty[i])]
		if err := t.slots.DirtyLog(i, vcpus); err != nil {
			return err
		}
		union(t.dirty[i], vcpus)
		union(t.dirty[i], t.mem.TakeDirty(i))
	}
	return nil
}

func (t *Tracker) gatherFrom(s *member) error {
	for i, r := range t.mem.Regions() {
		if err := s.ReadDirty(r.GPA, r.Size/memory.PageSize, t.dirty[i]); err != nil {
			return fmt.Errorf("%s: read what it wrote: %w", s.name, err)
		}
	}
	return nil
}

func union(dst, src []uint64) {
	for i, w := range src {
		dst[i] |= w
	}
}

// Stop ends the record and forgets what was not read. A record that does not run stays so.
func (t *Tracker) Stop() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.active {
		return nil
	}
	t.active, t.blind = false, nil
	return t.end()
}

// end stops all that records.
func (t *Tracker) end() error {
	var errs []error
	for _, s := range t.sources {
		errs = append(errs, s.stop())
	}
	errs = append(errs, t.mapRAM(0))
	t.mem.StopDirtyLog()
	t.dirty, t.scratch = nil, nil
	return errors.Join(errs...)
}

// Close gives the record up before RAM and the virtual machine go: Start fails from now on.
func (t *Tracker) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active, t.closed, t.sources = false, true, nil
}
