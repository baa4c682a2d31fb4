package storage

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/google/uuid"

	"virtd/virterr"
)

// Pool is one storage pool. A Pool stays usable as a name for it after it is gone; its methods then say that there is none.
type Pool struct {
	m  *Manager
	id uuid.UUID

	// job is held while what a stopped pool is on is checked, made, started or removed, which can take as long as its filesystem
	// or LVM likes. m.mu is never held meanwhile, so that one dead mount does not keep anybody from the other pools.
	job sync.Mutex

	// Guarded by m.mu.
	def        *definition // what applies now
	backend    backend     // of def
	next       *definition // what applies from the next start, where that differs
	coming     *definition // what Create is starting it with
	persistent bool
	active     bool
	stopping   bool // active still, and nobody may begin to use it
	autostart  bool
	jobs       int             // that need the pool to stay active
	creating   map[string]bool // volumes whose data is being written
	busy       map[string]int  // volumes that are being read or written
}

// StartFlags say what to build first (virStoragePoolCreateFlags).
type StartFlags uint32

// The flags of Start and Create. The last two say what building may destroy; without BuildAtStart they change nothing.
const (
	BuildAtStart     StartFlags = 1
	BuildOverwrite   StartFlags = 2
	BuildNoOverwrite StartFlags = 4
)

func (f StartFlags) check() error {
	if extra := f &^ (BuildAtStart | BuildOverwrite | BuildNoOverwrite); extra != 0 {
		return failure(virterr.InvalidArg, "unsupported flags (0x%x) in function virStoragePoolCreate", uint32(extra))
	}
	if f&BuildOverwrite != 0 && f&BuildNoOverwrite != 0 {
		return failure(virterr.InvalidArg, "Overwrite and no-overwrite flags are mutually exclusive")
	}
	return nil
}

// build returns the flags of the build that a start begins with.
func (f StartFlags) build() BuildFlags {
	switch {
	case f&BuildOverwrite != 0:
		return BuildDestroy
	case f&BuildNoOverwrite != 0:
		return BuildKeep
	}
	return 0
}

// use makes d what applies to the pool; the manager's lock is held, unless nobody else knows the pool yet.
func (p *Pool) use(d *definition) {
	if p.def != d {
		p.def, p.backend = d, p.m.backend(d)
	}
}

// Name returns the pool's name.
func (p *Pool) Name() string {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.def.name
}

// UUID returns the pool's UUID.
func (p *Pool) UUID() uuid.UUID { return p.id }

// Active reports whether the pool is started.
func (p *Pool) Active() bool {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.active
}

// Persistent reports whether the pool has a definition that outlives its stop.
func (p *Pool) Persistent() bool {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.persistent
}

// Autostart reports whether the pool is started with the host.
func (p *Pool) Autostart() bool {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.autostart
}

// emit queues a lifecycle event; the manager's lock is held.
func (p *Pool) emit(what Lifecycle) {
	p.m.events.Emit(Event{Kind: EventLifecycle, Name: p.def.name, UUID: p.id, Type: what})
}

// gone says that the pool was removed since the caller got hold of it; the manager's lock is held.
func (p *Pool) gone() error {
	if p.m.pools[p.id] != p {
		return failure(virterr.NoStoragePool, "no storage pool with matching uuid '%s' (%s)", p.id, p.def.name)
	}
	return nil
}

// Start makes the pool's volumes available.
func (p *Pool) Start(flags StartFlags) error {
	if err := flags.check(); err != nil {
		return err
	}
	p.job.Lock()
	defer p.job.Unlock()
	d, b, err := p.inactive("already")
	if err != nil {
		return err
	}
	if err := p.m.bring(d, b, flags); err != nil {
		return err
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.activate(d, b)
	return nil
}

// bring builds what a definition is on, where the flags say so, and starts it. It is on record before that, so that whatever a
// virtd that is killed meanwhile leaves is found by the next one.
func (m *Manager) bring(d *definition, b backend, flags StartFlags) error {
	ctx, cancel := m.program()
	defer cancel()
	if flags&BuildAtStart != 0 {
		if err := b.build(ctx, flags.build()); err != nil {
			return err
		}
	}
	if err := m.records.SetActive(d); err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return errors.Join(err, m.records.SetInactive(d.uuid))
	}
	return nil
}

// activate notes that the pool is active as d says; the manager's lock is held.
func (p *Pool) activate(d *definition, b backend) {
	if p.persistent && d != p.def { // it was defined anew meanwhile, or started with another document
		p.next = p.def
	}
	p.def, p.backend, p.active, p.coming = d, b, true, nil
	p.emit(Started)
}

// definition returns what applies now.
func (p *Pool) definition() *definition {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.def
}

// inactive returns the definition of a pool that is stopped, and what does its work.
func (p *Pool) inactive(word string) (*definition, backend, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.def, p.backend, p.mustBeInactive(word)
}

// tell queues a lifecycle event.
func (p *Pool) tell(what Lifecycle) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.emit(what)
}

// Stop makes the volumes unavailable; what is in them stays. A transient pool is forgotten.
func (p *Pool) Stop() error {
	b, err := p.beginStop()
	if err != nil {
		return err
	}
	ctx, cancel := p.m.program()
	defer cancel()
	if err = p.unused(ctx, b); err == nil {
		err = b.stop(ctx)
	}
	if err == nil {
		err = p.m.records.SetInactive(p.id)
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.stopping = false
	if err != nil {
		return err
	}
	p.active = false
	p.emit(Stopped)
	if !p.persistent {
		delete(p.m.pools, p.id)
	} else if p.next != nil {
		p.use(p.next)
		p.next = nil
	}
	return nil
}

// beginStop keeps new users from a pool that has none.
func (p *Pool) beginStop() (backend, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeActive(); err != nil {
		return nil, err
	}
	if p.jobs > 0 {
		return nil, failure(virterr.OperationInvalid, "pool '%s' has asynchronous jobs running.", p.def.name)
	}
	p.stopping = true
	return p.backend, nil
}

// unused fails when running domains use volumes that stopping the pool would take away.
func (p *Pool) unused(ctx context.Context, b backend) error {
	if !b.exclusive() {
		return nil
	}
	list, err := b.volumes(ctx)
	if err != nil {
		return nil // stopping says what is wrong
	}
	for _, v := range list {
		if users := p.m.users(v.path); len(users) > 0 {
			return failure(virterr.OperationInvalid, "storage pool '%s' is still in use: domain '%s' has volume '%s'; shut it down or detach the disk first",
				p.Name(), strings.Join(users, "', '"), v.name)
		}
	}
	return nil
}

// mustBeActive fails unless the pool is started; the manager's lock is held.
func (p *Pool) mustBeActive() error {
	if err := p.gone(); err != nil {
		return err
	}
	if !p.active || p.stopping {
		return failure(virterr.OperationInvalid, "storage pool '%s' is not active", p.def.name)
	}
	return nil
}

// mustBeInactive fails unless the pool is stopped; the manager's lock is held. The two texts are libvirt's.
func (p *Pool) mustBeInactive(word string) error {
	if err := p.gone(); err != nil {
		return err
	}
	if p.active {
		return failure(virterr.OperationInvalid, "storage pool '%s' is %s active", p.def.name, word)
	}
	return nil
}

// Undefine removes the definition. What the pool is on and the volumes stay.
func (p *Pool) Undefine() error {
	p.job.Lock()
	defer p.job.Unlock()
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeInactive("still"); err != nil {
		return err
	}
	if err := p.m.records.Forget(p.id); err != nil {
		return err
	}
	delete(p.m.pools, p.id)
	p.emit(Undefined)
	return nil
}

// SetAutostart says whether the pool is started with the host.
func (p *Pool) SetAutostart(on bool) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.gone(); err != nil {
		return err
	}
	if !p.persistent {
		return failure(virterr.InvalidArg, "pool has no config file")
	}
	if p.autostart == on {
		return nil
	}
	if err := p.m.records.SetAutostart(p.id, on); err != nil {
		return err
	}
	p.autostart = on
	return nil
}

// Build makes what the pool is on: its directory, a filesystem on its device, a volume group on its devices.
func (p *Pool) Build(flags BuildFlags) error {
	if extra := flags &^ (BuildKeep | BuildDestroy); extra != 0 {
		return failure(virterr.InvalidArg, "unsupported flags (0x%x) in function virStoragePoolBuild", uint32(extra))
	}
	if flags == BuildKeep|BuildDestroy {
		return failure(virterr.InvalidArg, "Overwrite and no-overwrite flags are mutually exclusive")
	}
	return p.change("already", Created, func(ctx context.Context, b backend) error { return b.build(ctx, flags) })
}

// Delete removes what the pool is on, if there is nothing on it.
func (p *Pool) Delete() error {
	return p.change("still", Deleted, func(ctx context.Context, b backend) error { return b.delete(ctx) })
}

// change does something to what a stopped pool is on, and tells of it.
func (p *Pool) change(word string, what Lifecycle, do func(context.Context, backend) error) error {
	p.job.Lock()
	defer p.job.Unlock()
	_, b, err := p.inactive(word)
	if err != nil {
		return err
	}
	ctx, cancel := p.m.program()
	defer cancel()
	if err := do(ctx, b); err != nil {
		return err
	}
	p.tell(what)
	return nil
}

// Refresh looks at everything anew.
func (p *Pool) Refresh() error {
	_, b, err := p.started()
	if err != nil {
		return err
	}
	ctx, cancel := p.m.program()
	defer cancel()
	if err := b.refresh(ctx); err != nil {
		return err
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeActive(); err != nil {
		return err
	}
	p.refreshed()
	return nil
}

// refreshed tells clients that volumes may have changed; the manager's lock is held.
func (p *Pool) refreshed() {
	p.m.events.Emit(Event{Kind: EventRefresh, Name: p.def.name, UUID: p.id})
}
