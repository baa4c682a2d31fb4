package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// CreateXML starts a domain from a document. One that is not stored under this UUID is transient: it goes away when it
// stops.
func (m *Manager) CreateXML(ctx context.Context, xml string, flags StartFlags) (*Domain, error) {
	const known = StartPaused | StartAutodestroy | StartBypassCache | StartForceBoot | StartValidate | StartResetNVRAM
	if err := checkFlags(flags, known, "qemuDomainCreateXML"); err != nil {
		return nil, err
	}
	opts := m.parseOptions()
	opts.Validate = flags&StartValidate != 0
	def, err := domain.Parse(xml, opts)
	if err != nil {
		return nil, err
	}
	d, j, err := m.claim(ctx, def, "create")
	if err != nil {
		return nil, err
	}
	defer j.end()
	d.mu.Lock()
	persistent, running := d.persistent, d.run != nil
	if !persistent && !running {
		d.transient = def
	}
	d.mu.Unlock()
	if running {
		return nil, virterr.New(virterr.OperationInvalid, "domain '%s' is already active", d.Name())
	}
	if err := d.refuseSaved("create"); err != nil {
		return nil, err
	}
	m.reveal(d)
	if err := j.outcome(d, d.start(j.ctx, flags.boot(def))); err != nil {
		if !persistent {
			m.forget(d)
		}
		return nil, err
	}
	return d, nil
}

// Start starts a stored domain.
func (d *Domain) Start(ctx context.Context, flags StartFlags) error {
	const known = StartPaused | StartAutodestroy | StartBypassCache | StartForceBoot | StartResetNVRAM
	if err := checkFlags(flags, known, "qemuDomainCreateWithFlags"); err != nil {
		return err
	}
	j, err := d.begin(ctx, "start")
	if err != nil {
		return err
	}
	defer j.end()
	if d.Active() {
		return virterr.New(virterr.OperationInvalid, "domain is already running")
	}
	if resumed, err := d.startSaved(j, flags); resumed || err != nil {
		return j.outcome(d, err)
	}
	def, err := d.definition()
	if err != nil {
		return err
	}
	return j.outcome(d, d.start(j.ctx, flags.boot(def)))
}

// boot returns the life that the flags ask for.
func (f StartFlags) boot(def *domain.Definition) boot {
	return boot{def: def, paused: f&StartPaused != 0, autodestroy: f&StartAutodestroy != 0}
}

// boot is a life to begin.
type boot struct {
	def         *domain.Definition
	paused      bool
	autodestroy bool
	// incoming is a saved state to begin with, nil to boot. restored is called then before the guest runs; its error ends
	// the start.
	incoming *os.File
	restored func() error
}

// start runs what b says. The caller has the job; the domain is off.
func (d *Domain) start(ctx context.Context, b boot) error {
	id := d.m.takeID(d)
	live, err := b.def.Start(id, d.m.cfg.Driver)
	if err != nil {
		d.m.dropID(id)
		return err
	}
	r := &run{live: live, started: time.Now(), gone: make(chan struct{}), starting: true, restored: b.incoming != nil, autodestroy: b.autodestroy}
	d.mu.Lock()
	d.run, d.id = r, id
	d.state, d.reason, d.lastExit = Paused, PausedStartingUp, ""
	d.mu.Unlock()
	if err := d.launch(ctx, r, b.incoming); err != nil {
		return d.failStart(r, err)
	}
	if b.restored != nil {
		if err := b.restored(); err != nil {
			return d.failStart(r, err)
		}
	}
	first := d.firstCont
	if b.paused {
		first = d.stayPaused
	}
	if err := first(ctx, r); err != nil {
		return d.failStart(r, err)
	}
	d.logStatus()
	return nil
}

// launch makes an engine for r and connects its events.
func (d *Domain) launch(ctx context.Context, r *run, incoming *os.File) error {
	record := func(rec json.RawMessage) error {
		d.mu.Lock()
		r.record = rec
		d.mu.Unlock()
		return d.syncStatus()
	}
	if err := d.resolve(r); err != nil {
		return err
	}
	if err := d.connect(r); err != nil {
		return err
	}
	inst, err := d.m.cfg.Driver.Start(ctx, driver.Request{Live: r.live, Record: record, Incoming: incoming})
	if err != nil {
		return err
	}
	live, err := r.live.SetRuntime(inst.Runtime())
	if err != nil {
		inst.Listen(func(driver.Event) {})
		return errors.Join(err, inst.Kill())
	}
	d.mu.Lock()
	r.inst, r.record, r.live = inst, inst.Record(), live
	d.mu.Unlock()
	d.connected(live)
	inst.Listen(func(e driver.Event) { d.handle(r, e) })
	return d.syncStatus()
}

// firstCont runs the guest's first instruction. A guest that powers off before the engine's answer is here has started.
func (d *Domain) firstCont(ctx context.Context, r *run) error {
	limit := d.m.cfg.CallTimeout
	if r.restored { // its devices begin to work only now
		limit = d.m.cfg.JobTimeout
	}
	cctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := r.inst.Cont(cctx)
	if err != nil {
		d.waitGone(r, dyingTime)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run == r && err == nil {
		d.booted(r)
	}
	if err != nil && d.run != r && !r.starting && r.guestEnded {
		return nil
	}
	return err
}

// stayPaused ends a start whose guest shall not run yet.
func (d *Domain) stayPaused(_ context.Context, r *run) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run != r {
		return virterr.New(virterr.InternalError, "the engine of domain '%s' ended at once: %s", d.Name(), d.lastExit)
	}
	r.starting = false
	started, suspended := StartedBooted, SuspendedPaused
	if r.restored {
		started, suspended = StartedRestored, SuspendedRestored
	}
	d.emitLifecycle(LifecycleStarted, started)
	d.state, d.reason = Paused, PausedUser
	d.emitLifecycle(LifecycleSuspended, suspended)
	return nil
}

// booted notes that the guest runs for the first time. The caller holds d.mu.
func (d *Domain) booted(r *run) {
	if r.starting && r.restored {
		r.starting = false
		d.emitLifecycle(LifecycleStarted, StartedRestored)
		d.setRunning(RunningRestored)
	}
	if r.starting {
		r.starting = false
		d.setRunning(RunningBooted)
		d.emitLifecycle(LifecycleStarted, StartedBooted)
	}
}

// failStart undoes a start that failed with err, and returns the error for the user.
func (d *Domain) failStart(r *run, err error) error {
	d.mu.Lock()
	inst := r.inst
	r.destroying = true
	d.mu.Unlock()
	if inst == nil { // no engine, no events
		d.finish(r, ShutOffFailed, -1, "")
	} else {
		d.waitGone(r, dyingTime) // one that fails by itself has words of its own
		if kerr := inst.Kill(); kerr != nil && !d.isGone(r) {
			d.m.log.Error("cannot kill the engine of a domain that did not start", "domain", d.Name(), "err", kerr)
		}
		if !d.waitGone(r, d.m.cfg.QuitTimeout) {
			d.m.log.Error("the engine of a domain that did not start is still there", "domain", d.Name(), "pid", inst.PID())
		}
		d.mu.Lock()
		if r.startupError != "" {
			err = virterr.New(virterr.InternalError, "the engine of domain '%s' ended during start: %s", d.Name(), r.startupError)
		}
		d.mu.Unlock()
	}
	return err
}

// dyingTime is how long an engine that failed has to say why.
const dyingTime = 500 * time.Millisecond

// waitGone waits for the end of a life and reports whether it came.
func (d *Domain) waitGone(r *run, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-r.gone:
		return true
	case <-timer.C:
		return false
	}
}

func (d *Domain) isGone(r *run) bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

// finish ends the life r: nothing runs any more. detail is the STOPPED event's, or negative for none. The status record
// goes first, so that nobody adopts what is gone.
func (d *Domain) finish(r *run, reason Reason, detail int, why string) {
	d.dropStatus(r, reason, why)
	d.mu.Lock()
	if d.run != r {
		d.mu.Unlock()
		return
	}
	id, transient, live := d.id, !d.persistent, r.live
	d.run, d.id, d.updated = nil, -1, false
	d.state, d.reason, d.lastExit = ShutOff, reason, why
	d.closeConsoles()
	if detail >= 0 {
		d.emitLifecycle(LifecycleStopped, detail)
	}
	d.mu.Unlock()
	d.m.dropID(id)
	d.disconnect(live)
	if transient {
		d.m.forget(d)
	}
	close(r.gone)
}

// String describes a life for logs.
func (r *run) String() string { return fmt.Sprintf("started %s", r.started.Format(time.RFC3339)) }
