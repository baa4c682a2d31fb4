package hypervisor

import (
	"sync"

	"virtd/hypervisor/monitor"
)

// guestEventKind is what a guest did that the engine must act on.
type guestEventKind int

const (
	eventReset guestEventKind = iota + 1
	eventTripleFault
	eventPowerOff
	eventPanic
	eventCrash        // the engine or KVM cannot go on with the guest
	eventHostdevError // a function of the host reported an uncorrectable error
)

type guestEvent struct {
	kind   guestEventKind
	detail string
}

// eventQueue holds the first event of those that come at once: what follows is a consequence, or another vCPU's version
// of the same.
type eventQueue struct {
	mu      sync.Mutex
	pending *guestEvent
	wake    chan struct{}
}

func (q *eventQueue) init() { q.wake = make(chan struct{}, 1) }

func (q *eventQueue) put(e guestEvent) {
	q.mu.Lock()
	if q.pending == nil {
		q.pending = &e
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// waiting reports whether there is an event to act on.
func (q *eventQueue) waiting() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending != nil
}

func (q *eventQueue) take() *guestEvent {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.pending
	q.pending = nil
	return e
}

// guestEvent notes what the guest did and asks all vCPUs to stop: the one that calls it executes nothing more before the
// event is acted on.
func (m *Machine) guestEvent(kind guestEventKind, detail string) {
	m.events.put(guestEvent{kind, detail})
	m.runner.requestStop()
}

// crash is a guestEvent for what ends in the log.
func (m *Machine) crash(detail string) {
	m.host.Logf("%s", detail)
	m.guestEvent(eventCrash, detail)
}

// pvpanic acts on the bits that the guest wrote to the pvpanic port.
func (m *Machine) pvpanic(bits uint8) {
	const panicked, crashLoaded = 1, 2
	if bits&panicked != 0 {
		m.guestEvent(eventPanic, "pvpanic")
		return
	}
	if bits&crashLoaded != 0 {
		m.host.Event(monitor.Event{Name: monitor.EventCrashLoaded, Data: map[string]any{"action": "run"}})
	}
}

// control acts on guest events until the machine ends.
func (m *Machine) control() {
	for {
		select {
		case <-m.done:
			return
		case <-m.events.wake:
		case <-m.ejects.wake:
			m.finishEjects()
		case <-m.wanted.wake:
			m.giveUp()
		}
		if e := m.events.take(); e != nil {
			m.act(e)
		}
	}
}

// act does what the configuration says about an event.
func (m *Machine) act(e *guestEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	state, _ := m.status.get()
	if state == StateShutdown {
		return
	}
	m.runner.stop()
	switch e.kind {
	case eventPowerOff:
		m.shutdownEvent("guest-shutdown")
		if m.resetAtPoweroff.Load() {
			m.resetOrEnd(state)
			return
		}
		m.end(ExitShutdown, e.detail)
	case eventReset, eventTripleFault:
		m.host.Logf("guest reset: %s", e.detail)
		m.follow(m.cfg.OnReboot, ExitReboot, "guest-reset", e.detail, state)
	case eventHostdevError:
		m.host.Logf("host device %s: it reports an uncorrectable error; the guest is paused", e.detail)
		if state == StateRunning {
			m.freezeWith(StatePaused, "io-error", map[string]string{"reason": "io-error"})
		}
	case eventPanic, eventCrash:
		m.host.Event(monitor.Event{Name: monitor.EventPanicked, Data: map[string]any{"action": panicAction(m.cfg.OnCrash)}})
		m.follow(m.cfg.OnCrash, ExitPanic, "guest-panic", e.detail, state)
	}
}

func panicAction(a Action) string {
	if a == ActionStop {
		return "poweroff"
	}
	if a == ActionReset {
		return "reset"
	}
	return "pause"
}

// follow carries an action out. The vCPUs are stopped; state is what the machine was in before.
func (m *Machine) follow(a Action, reason ExitReason, qmpReason, detail string, state State) {
	switch a {
	case ActionPreserve:
		m.freeze(StateCrashed, detail)
	case ActionStop:
		m.shutdownEvent(qmpReason)
		m.end(reason, detail)
	default:
		m.resetOrEnd(state)
	}
}

// resetOrEnd starts the guest again, running if state says that it ran.
func (m *Machine) resetOrEnd(state State) {
	if err := m.reset(true, state == StateRunning); err != nil {
		m.end(ExitError, "reset the machine: "+err.Error())
	}
}

func (m *Machine) shutdownEvent(reason string) {
	m.host.Event(monitor.Event{Name: monitor.EventShutdown, Data: map[string]any{"guest": true, "reason": reason}})
}
