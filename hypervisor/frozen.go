package hypervisor

import "virtd/hypervisor/kvm"

// frozenTime is where the guest's clocks stood when it stopped.
type frozenTime struct {
	yes   bool
	clock kvm.ClockData
	tsc   []tscState // by vCPU
}

// stopTime notes where the clocks stand. The vCPUs are stopped and the caller holds mu.
func (m *Machine) stopTime() {
	m.clock.stop()
	c, err := m.vm.Clock()
	if err != nil {
		m.host.Logf("the guest's clock will not stand still: %v", err)
	}
	m.frozen = frozenTime{yes: true, clock: c, tsc: m.readTSC()}
}

// startTime sets the clocks back to where stopTime found them, so that the time in between did not happen for the guest,
// and tells its watchdogs. The caller holds mu.
func (m *Machine) startTime() {
	m.clock.start()
	if !m.frozen.yes {
		return
	}
	f := m.frozen
	m.frozen = frozenTime{}
	if m.cfg.Clock.AdjustOnResume && f.clock.Flags&kvm.ClockRealtime != 0 {
		// The guest's clock catches up with the host's, as the configuration asks. Its TSC ran on by itself.
		f.clock.Flags = kvm.ClockRealtime
	} else {
		m.rewindTSC(f.tsc)
		f.clock.Flags = 0
	}
	if f.clock.Clock != 0 {
		if err := m.vm.SetClock(f.clock); err != nil {
			m.host.Logf("the guest's clock jumped: %v", err)
		}
	}
	for _, c := range m.runner.cpus {
		if err := c.v.ClockPaused(); err != nil {
			m.host.Logf("%v", err)
		}
	}
}
