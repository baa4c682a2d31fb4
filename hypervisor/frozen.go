package hypervisor

import (
	"time"

	"virtd/hypervisor/kvm"
)

// frozenTime is where the guest's clocks stood when it stopped.
type frozenTime struct {
	yes   bool
	at    time.Time
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
	m.frozen = frozenTime{yes: true, at: time.Now(), clock: c, tsc: m.readTSC()}
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
	m.rewindTSC(f.tsc)
	if !m.cfg.Clock.AdjustOnResume {
		m.board.rtc.Shift(-time.Since(f.at))
	}
	// Without a flag KVM takes the value as it is. Wall time needs nothing: KVM computes it anew, from the host's and
	// this clock, whenever the guest asks for kvmclock's wall clock.
	f.clock.Flags = 0
	if f.clock.Clock != 0 {
		if err := m.vm.SetClock(f.clock); err != nil {
			m.host.Logf("the guest's clock jumped: %v", err)
		}
	}
	for _, c := range m.runner.cpus() {
		if err := c.v.ClockPaused(); err != nil {
			m.host.Logf("%v", err)
		}
	}
}
