package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/monitor"
	"virtd/hypervisor/statefile"
)

// errGuestActs is why a machine is not saved at the instant its guest resets or powers off: what follows is not state.
var errGuestActs = errors.New("the guest is resetting or powering off; try again")

// heldState is a complete saved state whose machine still exists. As long as the machine stands still the state is true.
type heldState struct {
	file   *os.File
	offset int64 // where in file the state begins, -1 when it cannot be written again
	run    bool  // the guest ran before
	final  bool  // the machine ends and never makes the state void
}

// Save halts the guest and writes the machine's state to f, from its position on. Save takes f over. When it succeeds the
// guest stands still and the state is worth something until Resume, Reset or AbandonSave, which make it void before the
// guest executes another instruction; Stop leaves it valid. When it fails, or ctx ends, the guest goes on as before and what
// was written is no state.
//
// as, where it says something, is how who saves describes the machine to itself: one that has other devices or vCPUs, because
// its guest let one go meanwhile, is not saved, for nobody could build it again.
func (m *Machine) Save(ctx context.Context, f *os.File, as monitor.Described) error {
	held := &heldState{file: f, offset: -1}
	if err := m.save(ctx, held, as); err != nil {
		f.Close()
		return fmt.Errorf("save the machine: %w", err)
	}
	return nil
}

func (m *Machine) save(ctx context.Context, held *heldState, as monitor.Described) error {
	ctx, end, err := m.job.begin(ctx, "save", m.mem.Size())
	if err != nil {
		return err
	}
	defer end()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held != nil {
		return fmt.Errorf("a saved state of it waits: %w", ErrJob)
	}
	if m.devices.hostdevs.container != nil {
		return errors.New("it has devices of the host, whose state only they have")
	}
	held.run, err = m.halt("save")
	if err != nil {
		return err
	}
	if at, err := held.file.Seek(0, io.SeekCurrent); err == nil {
		held.offset = at
	}
	m.dropAll(m.ejects.take()) // what the guest has let go of is part of no state
	if err = errors.Join(m.sameDevices(as.Devices), m.sameCPUs(as.CPUs)); err == nil {
		err = m.writeState(&jobWriter{ctx, &m.job, held.file})
	}
	if err == nil {
		m.held = held
		return nil
	}
	if held.run {
		m.goOn()
	}
	return err
}

// halt stops a running guest for a job, whose name clients see as the reason, and reports whether it ran. The caller holds
// mu.
func (m *Machine) halt(job string) (ran bool, err error) {
	switch state, reason := m.status.get(); state {
	case StateShutdown:
		return false, ErrEnded
	case StateCrashed:
		return false, fmt.Errorf("the guest crashed (%s)", reason)
	case StateRunning:
		ran = true
	}
	m.runner.stop()
	if m.events.waiting() {
		return false, errGuestActs // control acts as soon as it gets mu
	}
	if !m.frozen.yes { // also a machine that was started paused
		m.devices.quiesce()
		m.stopTime()
	}
	for _, c := range m.runner.cpus() {
		if c.nmi.Swap(false) { // one that its thread had no time for
			if err := c.v.NMI(); err != nil {
				m.host.Logf("%v", err)
			}
		}
	}
	if ran {
		m.status.set(StatePaused, job)
		m.host.Event(monitor.Event{Name: monitor.EventStop, Data: map[string]string{"reason": job}})
	}
	return ran, nil
}

// sameDevices compares the devices that come and go. The guest stands still and the caller holds mu.
func (m *Machine) sameDevices(described []string) error {
	if described == nil {
		return nil
	}
	var have []string
	for _, d := range m.devices.list {
		if d.removable {
			have = append(have, d.id)
			if !slices.Contains(described, d.id) {
				return fmt.Errorf("device %s came meanwhile; try again", d.id)
			}
		}
	}
	for _, id := range described {
		if !slices.Contains(have, id) {
			return fmt.Errorf("the guest let go of device %s meanwhile; try again", id)
		}
	}
	return nil
}

// sameCPUs compares the numbers of the vCPUs, as sameDevices does devices.
func (m *Machine) sameCPUs(described []int) error {
	if have := m.cpuNumbers(); described != nil && !slices.Equal(described, have) {
		return fmt.Errorf("the machine has vCPUs %v, it was described with %v; try again", have, described)
	}
	return nil
}

// goOn lets a halted guest run. The caller holds mu.
func (m *Machine) goOn() {
	m.run()
	m.status.set(StateRunning, "")
	m.host.Event(monitor.Event{Name: monitor.EventResume})
}

// writeState writes everything. The guest stands still and the caller holds mu.
func (m *Machine) writeState(w *jobWriter) error {
	// What the guest takes for written may only be in the host's memory, and the saved machine can outlive that.
	for _, d := range m.devices.disks {
		if err := d.dev.Image().Sync(); err != nil {
			return fmt.Errorf("disk %s: %w", d.cfg.ID, err)
		}
	}
	s, err := statefile.NewWriter(w)
	if err != nil {
		return err
	}
	parts, err := m.parts()
	if err != nil {
		return err
	}
	for _, p := range parts {
		state, err := p.save()
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := s.Section(p.name, state); err != nil {
			return err
		}
	}
	if err := m.mem.Scan(s.Pages, w.seen); err != nil {
		return err
	}
	return s.End()
}

// CommitSave makes the saved state the machine's last one: from here on only Stop may follow, and a lost monitor changes
// nothing. It fails when there is no saved state.
func (m *Machine) CommitSave() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil {
		return errors.New("there is no saved state to keep: the machine went on, or was not saved")
	}
	m.held.final = true
	return nil
}

// AbandonSave makes a saved state that nobody committed void and lets the guest go on as before it was saved. It does
// nothing when there is none.
func (m *Machine) AbandonSave() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil || m.held.final {
		return nil
	}
	run := m.held.run
	if err := m.voidHeld(); err != nil {
		return err
	}
	if state, _ := m.status.get(); run && state == StatePaused {
		m.goOn()
	}
	return nil
}

// voidHeld takes a saved state back before the guest changes what it says: whoever restored it then would run the guest's
// past on the disks of its present. A state that cannot be taken back keeps the guest standing. The caller holds mu.
func (m *Machine) voidHeld() error {
	h := m.held
	if h == nil {
		return nil
	}
	if h.final {
		return fmt.Errorf("the machine was saved and ends: %w", ErrEnded)
	}
	if err := h.void(); err != nil {
		return fmt.Errorf("make the saved state void, without which the guest must not go on: %w", err)
	}
	m.held = nil
	return nil
}

func (h *heldState) void() error {
	if h.offset >= 0 {
		var nothing [16]byte
		if _, err := h.file.WriteAt(nothing[:], h.offset); err != nil {
			return err
		}
		if err := h.file.Sync(); err != nil {
			return err
		}
		// The space is of no use to anybody. A device keeps it.
		if err := h.file.Truncate(h.offset); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return h.file.Close()
}
