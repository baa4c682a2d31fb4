package hypervisor

import (
	"errors"
	"fmt"
	"time"

	"virtd/hypervisor/monitor"
)

// ErrEnded is returned (wrapped) by what needs a machine that has not ended.
var ErrEnded = errors.New("the machine has ended")

// Pause stops the guest. Its clocks stand still until Resume. Pausing a paused machine does nothing.
func (m *Machine) Pause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch state, _ := m.status.get(); state {
	case StateShutdown:
		return fmt.Errorf("pause: %w", ErrEnded)
	case StateRunning:
	default:
		return nil
	}
	m.runner.stop()
	m.freeze(StatePaused, "paused by request")
	return nil
}

// freeze makes a machine whose vCPUs just stopped stand still. The caller holds mu.
func (m *Machine) freeze(state State, reason string) {
	m.freezeWith(state, reason, nil)
}

// freezeWith is freeze with data of the event that tells of it.
func (m *Machine) freezeWith(state State, reason string, data any) {
	if !m.frozen.yes {
		m.devices.quiesce()
		m.stopTime()
	}
	m.status.set(state, reason)
	m.host.Event(monitor.Event{Name: monitor.EventStop, Data: data})
}

// Resume lets a paused guest go on. A machine that is running, or crashed, stays as it is.
func (m *Machine) Resume() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch state, reason := m.status.get(); state {
	case StateShutdown:
		return fmt.Errorf("resume: %w", ErrEnded)
	case StateCrashed:
		return fmt.Errorf("resume: the guest crashed (%s); reset it", reason)
	case StateRunning:
		return nil
	}
	if err := m.voidHeld(); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	m.goOn()
	return nil
}

// run lets time, devices and vCPUs go on. The caller holds mu.
func (m *Machine) run() {
	m.startTime()
	m.devices.resume()
	m.runner.start()
}

// Reset restarts the guest as its reset button would. A machine that crashed is paused or running again as it was.
func (m *Machine) Reset() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	state, _ := m.status.get()
	if state == StateShutdown {
		return fmt.Errorf("reset: %w", ErrEnded)
	}
	m.runner.stop()
	return m.reset(false, state == StateRunning || state == StateCrashed)
}

// reset brings the stopped machine back to power-on and lets it run when it did. The caller holds mu.
func (m *Machine) reset(guest, run bool) error {
	if err := m.voidHeld(); err != nil {
		return err
	}
	m.events.take() // what the guest did before the reset is moot
	if m.frozen.yes {
		m.startTime()
		m.devices.resume()
	}
	m.completeRemovals()
	m.devices.reset()
	m.board.reset()
	if err := m.resetIRQ(); err != nil {
		return err
	}
	if err := m.powerOn(); err != nil {
		return err
	}
	m.host.Event(monitor.Event{Name: monitor.EventReset, Data: map[string]any{"guest": guest, "reason": resetReason(guest)}})
	if !run {
		m.devices.quiesce()
		m.stopTime()
		m.status.set(StatePaused, "reset while paused")
		return nil
	}
	m.status.set(StateRunning, "")
	m.runner.start()
	return nil
}

func resetReason(guest bool) string {
	if guest {
		return "guest-reset"
	}
	return "host-qmp-system-reset"
}

func (m *Machine) resetIRQ() error {
	for _, c := range m.chips {
		if err := m.vm.SetIRQChip(c); err != nil {
			return err
		}
	}
	if m.pit != nil {
		if err := m.vm.SetPIT(m.pit); err != nil {
			return err
		}
	}
	return m.irq.Reapply()
}

// PowerDown presses the power button.
func (m *Machine) PowerDown() error {
	if state, _ := m.status.get(); state == StateShutdown {
		return fmt.Errorf("power button: %w", ErrEnded)
	}
	m.board.pm.PressPower()
	m.host.Event(monitor.Event{Name: monitor.EventPowerdown})
	return nil
}

// NMI sends a non-maskable interrupt to every vCPU.
func (m *Machine) NMI() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if state, _ := m.status.get(); state == StateShutdown {
		return fmt.Errorf("inject an NMI: %w", ErrEnded)
	}
	for _, c := range m.runner.cpus() {
		c.injectNMI()
	}
	return nil
}

// Stop ends the machine; detail is why, for the exit record. Stopping an ended machine does nothing.
func (m *Machine) Stop(reason ExitReason, detail string) {
	m.job.stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	if state, _ := m.status.get(); state == StateShutdown {
		return
	}
	if reason == ExitQuit {
		m.host.Event(monitor.Event{Name: monitor.EventShutdown, Data: map[string]any{"guest": false, "reason": "host-qmp-quit"}})
	}
	m.end(reason, detail)
}

// end stops everything for good. The caller holds mu.
func (m *Machine) end(reason ExitReason, detail string) {
	m.status.set(StateShutdown, string(reason))
	m.runner.shutdown()
	m.job.stopWait() // it may read RAM
	m.record = ExitRecord{Reason: reason, Detail: detail, Time: time.Now()}
	m.release()
	m.ended.Do(func() { close(m.done) })
}
