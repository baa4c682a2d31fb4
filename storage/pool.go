package storage

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Pool is one storage pool. A Pool stays usable as a name for it after it is gone; its methods then say that there is none.
type Pool struct {
	m  *Manager
	id uuid.UUID

	// job is held while the pool's directory is checked, made or removed, which can take as long as its filesystem likes.
	// m.mu is never held meanwhile, so that one dead mount does not keep anybody from the other pools.
	job sync.Mutex

	// Guarded by m.mu.
	def        *definition // what applies now
	next       *definition // what applies from the next start, where that differs
	active     bool
	persistent bool
	autostart  bool
	jobs       int             // that need the pool to stay active
	creating   map[string]bool // volumes whose data is being written
	busy       map[string]int  // volumes that are being read or written
}

// StartFlags say what to do about the directory (virStoragePoolCreateFlags).
type StartFlags uint32

// The flags of Start and Create. For a directory the last two change nothing: building it never overwrites anything.
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

// Start makes the volumes in the pool's directory available.
func (p *Pool) Start(flags StartFlags) error {
	if err := flags.check(); err != nil {
		return err
	}
	p.job.Lock()
	defer p.job.Unlock()
	d, err := p.inactive("already")
	if err != nil {
		return err
	}
	if err := d.prepare(flags); err != nil {
		return err
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeInactive("already"); err != nil {
		return err
	}
	return p.activate(d)
}

// prepare makes the directory, where the flags say so, and checks it.
func (d *definition) prepare(flags StartFlags) error {
	if flags&BuildAtStart != 0 {
		if err := d.build(); err != nil {
			return err
		}
	}
	if err := d.usable(); err != nil {
		return err
	}
	if err := removePartials(d.target); err != nil {
		return failure(virterr.SystemError, "cannot remove unfinished volumes from '%s': %w", d.target, virterr.Strerror(err))
	}
	return nil
}

// activate notes that the pool is active as d says; the manager's lock is held.
func (p *Pool) activate(d *definition) error {
	if err := p.m.records.setActive(d); err != nil {
		return err
	}
	if p.persistent && d != p.def {
		p.next = p.def
	}
	p.def, p.active = d, true
	p.emit(Started)
	return nil
}

// inactive returns the definition of a pool that is stopped.
func (p *Pool) inactive(word string) (*definition, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.def, p.mustBeInactive(word)
}

// tell queues a lifecycle event.
func (p *Pool) tell(what Lifecycle) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.emit(what)
}

// usable fails unless the pool's directory can be read.
func (d *definition) usable() error {
	f, err := os.OpenFile(d.target, os.O_RDONLY|unix.O_DIRECTORY, 0) // O_DIRECTORY: a fifo would wait for its other end
	if err != nil {
		return failure(virterr.SystemError, "cannot open directory '%s': %w%s", d.target, virterr.Strerror(err), d.hint(err))
	}
	defer f.Close()
	if _, err := f.ReadDir(1); err != nil && !errors.Is(err, io.EOF) {
		return failure(virterr.SystemError, "cannot read directory '%s': %w", d.target, virterr.Strerror(err))
	}
	return nil
}

func (d *definition) hint(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return " (make it with pool-build)"
	}
	return ""
}

// Stop makes the volumes unavailable; the files stay. A transient pool is forgotten.
func (p *Pool) Stop() error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeActive(); err != nil {
		return err
	}
	if p.jobs > 0 {
		return failure(virterr.OperationInvalid, "pool '%s' has asynchronous jobs running.", p.def.name)
	}
	if err := p.m.records.setInactive(p.id); err != nil {
		return err
	}
	p.active = false
	p.emit(Stopped)
	if !p.persistent {
		delete(p.m.pools, p.id)
	} else if p.next != nil {
		p.def, p.next = p.next, nil
	}
	return nil
}

// mustBeActive fails unless the pool is started; the manager's lock is held.
func (p *Pool) mustBeActive() error {
	if err := p.gone(); err != nil {
		return err
	}
	if !p.active {
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

// Undefine removes the definition. The directory and the volumes stay.
func (p *Pool) Undefine() error {
	p.job.Lock()
	defer p.job.Unlock()
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeInactive("still"); err != nil {
		return err
	}
	if err := p.m.records.forget(p.id); err != nil {
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
	if err := p.m.records.setAutostart(p.id, on); err != nil {
		return err
	}
	p.autostart = on
	return nil
}

// Build makes the pool's directory, and the directories above it that are missing.
func (p *Pool) Build() error {
	p.job.Lock()
	defer p.job.Unlock()
	d, err := p.inactive("already")
	if err != nil {
		return err
	}
	if err := d.build(); err != nil {
		return err
	}
	p.tell(Created)
	return nil
}

// build makes the directory. One that exists keeps its mode and owner where the definition does not say them.
func (d *definition) build() error {
	if err := os.MkdirAll(filepath.Dir(d.target), 0o755); err != nil {
		return failure(virterr.SystemError, "cannot create path '%s': %w", filepath.Dir(d.target), virterr.Strerror(err))
	}
	mode := d.perms.mode
	err := os.Mkdir(d.target, 0o700) // closed until the owner is right
	switch {
	case err == nil && mode < 0:
		mode = defaultPoolMode
	case errors.Is(err, fs.ErrExist):
		if st, serr := os.Stat(d.target); serr != nil || !st.IsDir() {
			return failure(virterr.SystemError, "cannot create path '%s': %w", d.target, virterr.Strerror(unix.ENOTDIR))
		}
	case err != nil:
		return failure(virterr.SystemError, "cannot create path '%s': %w", d.target, virterr.Strerror(err))
	}
	if d.perms.owner >= 0 || d.perms.group >= 0 {
		if err := os.Chown(d.target, d.perms.owner, d.perms.group); err != nil {
			return failure(virterr.SystemError, "cannot chown '%s' to (%d, %d): %w", d.target, d.perms.owner, d.perms.group, virterr.Strerror(err))
		}
	}
	if mode >= 0 {
		if err := unix.Chmod(d.target, uint32(mode)); err != nil { // os.Chmod has other bits for setgid and sticky
			return failure(virterr.SystemError, "cannot set mode of '%s' to %04o: %w", d.target, mode, virterr.Strerror(err))
		}
	}
	return nil
}

// Delete removes the pool's directory, if it is empty.
func (p *Pool) Delete() error {
	p.job.Lock()
	defer p.job.Unlock()
	d, err := p.inactive("still")
	if err != nil {
		return err
	}
	if err := unix.Rmdir(d.target); err != nil {
		hint := ""
		if errors.Is(err, unix.ENOTEMPTY) {
			hint = " (only an empty directory is removed: delete its volumes first, or undefine the pool and leave the directory)"
		}
		return failure(virterr.SystemError, "failed to remove pool '%s': %w%s", d.target, virterr.Strerror(err), hint)
	}
	p.tell(Deleted)
	return nil
}

// Refresh checks that the directory can be read. There is nothing else to refresh: lists are made from the directory itself.
func (p *Pool) Refresh() error {
	d, err := p.started()
	if err != nil {
		return err
	}
	if err := d.usable(); err != nil {
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
