package hypervisor

import "virtd/hypervisor/kvm"

// MSRs of time (Intel SDM 4).
const (
	msrTSC         = 0x10
	msrTSCDeadline = 0x6e0
)

// tscState is one vCPU's time stamp counter where the machine stopped.
type tscState struct {
	tsc, deadline uint64
	offset        uint64
	known         bool
}

// readTSC reads the counters. A host that cannot tell offsets leaves the TSC running through a pause, and the log says
// so; kvmclock stands still anyway.
func (m *Machine) readTSC() []tscState {
	out := make([]tscState, len(m.runner.cpus()))
	for i, c := range m.runner.cpus() {
		s := &out[i]
		var err error
		if s.offset, err = c.v.TSCOffset(); err != nil {
			if i == 0 {
				m.host.Logf("the guest's TSC runs on while it is paused: %v", err)
			}
			return nil
		}
		values, err := c.v.MSRs([]uint32{msrTSC, msrTSCDeadline})
		if err != nil {
			m.host.Logf("the guest's TSC runs on while it is paused: %v", err)
			return nil
		}
		for _, v := range values {
			switch v.Index {
			case msrTSC:
				s.tsc, s.known = v.Value, true
			case msrTSCDeadline:
				s.deadline = v.Value
			}
		}
	}
	return out
}

// rewindTSC takes the time since readTSC out of the counters: all by the same amount, so that vCPUs stay in step, and
// through the offset, because KVM takes a small change of the counter itself for an attempt to synchronise vCPUs.
func (m *Machine) rewindTSC(was []tscState) {
	if len(was) == 0 || !was[0].known {
		return
	}
	now, err := m.runner.cpus()[0].v.MSRs([]uint32{msrTSC})
	if err != nil || len(now) != 1 {
		m.host.Logf("the guest's TSC jumped: %v", err)
		return
	}
	passed := now[0].Value - was[0].tsc
	defer m.checkTSC(was[0].offset - passed)
	for i, c := range m.runner.cpus() {
		if err := c.v.SetTSCOffset(was[i].offset - passed); err != nil {
			m.host.Logf("the guest's TSC jumped: %v", err)
			return
		}
		if d := was[i].deadline; d != 0 { // the timer must be armed again for the same counter value
			if _, err := c.v.SetMSRs([]kvm.MSR{{Index: msrTSCDeadline, Value: d}}); err != nil {
				m.host.Logf("a timer of the guest may come early: %v", err)
			}
		}
	}
}

// checkTSC says so when the host took the offset and ignores it: a KVM that runs guests without hardware help cannot
// move their TSC.
func (m *Machine) checkTSC(want uint64) {
	if got, err := m.runner.cpus()[0].v.TSCOffset(); err == nil && got != want {
		m.host.Logf("the guest's TSC ran on while it was paused: this host's KVM cannot shift it")
	}
}
