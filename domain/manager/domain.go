package manager

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/domain/store"
	"virtd/driver"
	"virtd/virterr"
)

// Domain is a handle to one domain of a Manager. It stays valid when the domain goes away; its methods then fail with
// NoDomain. All methods are safe for concurrent use. Methods that take a context and change something wait for the
// domain's job; the others do not.
type Domain struct {
	m       *Manager
	uuid    uuid.UUID
	name    atomic.Pointer[string] // Rename changes it; see Name
	jobs    jobSlot
	visible bool // guarded by m.mu

	statusDue atomic.Bool // statusLater will write
	statusMu  sync.Mutex  // serializes writing of the status record; taken before mu

	mu         sync.Mutex // guards what follows; never held while waiting for anything
	removed    bool
	persistent bool
	updated    bool // the definition changed since the domain started
	state      State
	reason     Reason
	run        *run                       // nil when off
	transient  *domain.Definition         // the definition of a domain that is not persistent
	lastExit   string                     // why it stopped, one line, for messages
	id         int                        // -1 when off; also in run while it has one
	consoles   map[string]*consoleSession // nil while there was none
	saved      bool                       // there is a managed save image
	long       *longJob                   // a save or dump under way
	lastLong   *finishedLong              // the one before
	leaving    string                     // alias of the device whose removal a job waits for
	left       chan bool                  // gets the guest's answer: gone or kept
}

// end is how the end of a life is told.
type end struct {
	reason Reason
	detail int // of the STOPPED event
}

// run is one life of a domain, from the engine's start to its end. A restart in place of the engine keeps it.
type run struct {
	live    *domain.Definition
	inst    driver.Instance // nil while starting and between two engines of a restart
	record  []byte
	blocks  map[string]driver.BlockStats // what inst told last of its disks, by alias; never changed
	started time.Time
	gone    chan struct{} // closed when this life ended and its traces are removed

	starting     bool   // the guest has not run yet
	guestEnded   bool   // the end was the guest's doing
	destroying   bool   // a destroy asked for the end
	rebooting    bool   // the next power-off is half of a reboot
	resetArmed   bool   // the engine was told to reset at the next power-off
	sawShutdown  bool   // clients got the SHUTDOWN event of this end
	restored     bool   // it began with a saved state
	autodestroy  bool   // it ends with the connection of the client that began it
	endAs        *end   // what an end that we bring about is called, nil for destroyed
	balloon      uint64 // KiB the guest has, 0 unknown
	startupError string
	ended        bool // the status record is gone for good
}

func newDomain(m *Manager, id uuid.UUID, name string) *Domain {
	d := &Domain{m: m, uuid: id, id: -1, state: ShutOff}
	d.name.Store(&name)
	return d
}

// Info is what lists and dominfo show.
type Info struct {
	Ref
	State         State
	Reason        Reason
	Persistent    bool
	Autostart     bool
	Updated       bool          // the persistent definition differs from what runs
	Memory        uint64        // KiB, maximum
	CurrentMemory uint64        // KiB: what the guest has now, or will start with
	VCPUs         int           // present
	MaxVCPUs      int           // possible
	CPUTime       time.Duration // 0 when off
	Title         string
	LastExit      string // why the domain stopped last, "" if nothing is known
}

// Name returns the domain's name, UUID its UUID.
func (d *Domain) Name() string { return *d.name.Load() }

// UUID returns the domain's UUID.
func (d *Domain) UUID() uuid.UUID { return d.uuid }

// Ref returns the domain's name, UUID and current number.
func (d *Domain) Ref() Ref {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ref()
}

// ref is Ref for callers that hold d.mu.
func (d *Domain) ref() Ref { return Ref{Name: d.Name(), UUID: d.uuid, ID: d.id} }

// State returns the domain's state and why it is in it.
func (d *Domain) State() (State, Reason) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, d.reason
}

// Active reports whether the domain has an engine, Persistent whether it has a stored definition.
func (d *Domain) Active() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.run != nil
}

// Persistent reports whether the domain has a stored definition.
func (d *Domain) Persistent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.persistent
}

// Info returns what dominfo shows. It neither waits nor reads XML.
func (d *Domain) Info() Info {
	entry, _ := d.m.cfg.Store.Entry(d.uuid)
	d.mu.Lock()
	info := Info{
		Ref: d.ref(), State: d.state, Reason: d.reason, Persistent: d.persistent, Updated: d.updated,
		Autostart: entry.Autostart, Title: entry.Title, LastExit: d.lastExit,
		Memory: entry.Memory, CurrentMemory: entry.CurrentMemory, VCPUs: entry.CurrentVCPUs, MaxVCPUs: entry.VCPUs,
	}
	var inst driver.Instance
	if r := d.run; r != nil {
		inst = r.inst
		info.Title = r.live.Title()
		info.Memory, info.CurrentMemory = r.live.Memory(), r.memory()
		info.VCPUs, info.MaxVCPUs = r.live.CurrentVCPUs(), r.live.VCPUs()
	}
	d.mu.Unlock()
	if inst != nil {
		if t, err := inst.CPUTime(); err == nil {
			info.CPUTime = t.Total
		}
	}
	return info
}

// memory returns how many KiB the guest has. The caller holds the domain's mu.
func (r *run) memory() uint64 {
	if r.balloon != 0 {
		return r.balloon
	}
	return r.live.CurrentMemory()
}

func (d *Domain) isRemoved() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.removed
}

func (d *Domain) notFound() error {
	return virterr.New(virterr.NoDomain, "no domain with matching uuid '%s' (%s)", d.uuid, d.Name())
}

func notRunning() error {
	return virterr.New(virterr.OperationInvalid, "domain is not running")
}

// engine returns the running engine and the live definition.
func (d *Domain) engine() (driver.Instance, *domain.Definition, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.removed:
		return nil, nil, d.notFound()
	case d.run == nil || d.run.inst == nil:
		return nil, nil, notRunning()
	}
	return d.run.inst, d.run.live, nil
}

// live returns the definition of the domain as it runs or starts; nil when it is off.
func (d *Domain) live() *domain.Definition {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run == nil {
		return nil
	}
	return d.run.live
}

// definition returns the inactive definition: the stored one, or a transient domain's.
func (d *Domain) definition() (*domain.Definition, error) {
	d.mu.Lock()
	def, persistent, removed := d.transient, d.persistent, d.removed
	d.mu.Unlock()
	switch {
	case removed:
		return nil, d.notFound()
	case persistent:
		return d.m.cfg.Store.Load(d.uuid)
	case def == nil:
		return nil, d.notFound()
	}
	return def, nil
}

// call bounds one question to the engine.
func (d *Domain) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d.m.cfg.CallTimeout)
}

// XML returns the domain's document: the live one of a running domain, unless flags ask for the inactive one.
func (d *Domain) XML(flags domain.XMLFlags) (string, error) {
	const known = domain.XMLSecure | domain.XMLInactive | domain.XMLUpdateCPU | domain.XMLMigratable
	if err := checkFlags(flags, known, "qemuDomainGetXMLDesc"); err != nil {
		return "", err
	}
	d.mu.Lock()
	var live *domain.Definition
	var memory uint64
	if d.run != nil {
		live, memory = d.run.live, d.run.memory()
	}
	d.mu.Unlock()
	if live == nil || flags&domain.XMLInactive != 0 {
		def, err := d.definition()
		if err != nil {
			return "", err
		}
		return def.XML(flags), nil
	}
	return withMemory(live, memory).XML(flags), nil
}

// withMemory returns the live definition with the memory that the guest has, in KiB.
func withMemory(live *domain.Definition, memory uint64) *domain.Definition {
	if memory != live.CurrentMemory() && memory <= live.Memory() {
		if now, err := live.SetMemory(memory); err == nil {
			return now
		}
	}
	return live
}

// OSType returns hvm.
func (d *Domain) OSType() (string, error) {
	if d.isRemoved() {
		return "", d.notFound()
	}
	return "hvm", nil
}

// Messages returns what the administrator should know about the domain, one sentence each: what its definition asks for and
// the guest does not get, why it is off, or what the engine warns of.
func (d *Domain) Messages() ([]string, error) {
	d.mu.Lock()
	exit := d.lastExit
	d.mu.Unlock()
	inst, def, err := d.engine()
	switch {
	case err == nil:
		return append(def.NotProvided(), inst.Warnings()...), nil
	case !virterr.Is(err, virterr.OperationInvalid):
		return nil, err
	}
	var list []string
	if def, err = d.definition(); err == nil { // one that cannot be read is told where it is asked for
		list = def.NotProvided()
	}
	if exit != "" {
		list = append(list, "last run ended: "+exit)
	}
	return list, nil
}

// entry is the stored entry, for lists.
func (d *Domain) entry() store.Entry {
	e, _ := d.m.cfg.Store.Entry(d.uuid)
	return e
}
