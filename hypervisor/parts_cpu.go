package hypervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtd/hypervisor/kvm"
)

// cpuState is one vCPU's section.
type cpuState struct {
	Version int              `json:"version"`
	APICID  int              `json:"apicID"`
	TSCKHz  int              `json:"tscKHz"`
	CPUID   []kvm.CPUIDEntry `json:"cpuid"`
	State   []byte           `json:"state"` // kvm.State.Encode
}

func (m *Machine) saveCPU(c *vcpu) ([]byte, error) {
	state, err := c.v.State(m.msrIndices)
	if err != nil {
		return nil, err
	}
	khz, err := c.v.TSCKHz()
	if err != nil {
		return nil, err
	}
	leaves := c.leaves
	if leaves == nil {
		leaves = m.guestCPUID(c.index)
	}
	return json.Marshal(cpuState{1, c.v.ID(), khz, leaves, state.Encode()})
}

func (m *Machine) restoreCPU(c *vcpu, section []byte) error {
	var s cpuState
	if err := json.Unmarshal(section, &s); err != nil {
		return err
	}
	var state kvm.State
	if err := state.Decode(s.State); err != nil {
		return err
	}
	if s.Version != 1 || s.APICID != c.v.ID() {
		return fmt.Errorf("version %d of vCPU %d, this one has APIC ID %d", s.Version, s.APICID, c.v.ID())
	}
	if err := m.adoptCPUID(c, s.CPUID); err != nil {
		return err
	}
	if khz, err := c.v.TSCKHz(); err != nil || khz != s.TSCKHz {
		// KVM takes a frequency that is close to the host's as it is, and others where the processor can scale.
		if err := c.v.SetTSCKHz(s.TSCKHz); err != nil {
			return fmt.Errorf("the guest's time stamp counter runs at %d kHz, this host's at %d and it cannot be scaled: %w", s.TSCKHz, khz, err)
		}
	}
	m.alignTSC(c.index, &state)
	refused, err := c.v.SetState(&state)
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		m.host.Logf("vCPU %d: this host's KVM refuses MSR %#x of the saved machine", c.index, refused)
	}
	return nil
}

// alignTSC gives every vCPU the first one's counter: they were read one after the other, and equal values are how KVM
// knows that they are in step. The exact place is set by offset when time goes on, where the host can.
func (m *Machine) alignTSC(i int, s *kvm.State) {
	for n := range s.MSRs {
		if s.MSRs[n].Index != msrTSC {
			continue
		}
		if i == 0 {
			m.restoredTSC = s.MSRs[n].Value
		}
		s.MSRs[n].Value = m.restoredTSC
	}
}

// guestTime is the section of the guest's clocks, where they stood.
type guestTime struct {
	Version  int       `json:"version"`
	At       int64     `json:"at"`       // host's wall time, ns since 1970
	KVMClock uint64    `json:"kvmclock"` // ns
	TSC      []tscWord `json:"tsc,omitempty"`
}

type tscWord struct {
	TSC, Deadline, Offset uint64
}

func (m *Machine) saveTime() ([]byte, error) {
	if !m.frozen.yes {
		return nil, errors.New("the guest's clocks run")
	}
	s := guestTime{Version: 1, At: m.frozen.at.UnixNano(), KVMClock: m.frozen.clock.Clock}
	for _, t := range m.frozen.tsc {
		s.TSC = append(s.TSC, tscWord{t.tsc, t.deadline, t.offset})
	}
	return json.Marshal(s)
}

// restoreTime stops the clocks where they stood in the saved machine. Offsets are from the host's counter, which is
// another one now: the first vCPU's gives the distance, and the others keep theirs from it.
func (m *Machine) restoreTime(section []byte) error {
	var s guestTime
	if err := json.Unmarshal(section, &s); err != nil {
		return err
	}
	if s.Version != 1 || len(s.TSC) != 0 && len(s.TSC) != len(m.runner.cpus()) {
		return fmt.Errorf("version %d with %d counters of %d vCPUs", s.Version, len(s.TSC), len(m.runner.cpus()))
	}
	m.clock.stop()
	m.frozen = frozenTime{yes: true, at: time.Unix(0, s.At), clock: kvm.ClockData{Clock: s.KVMClock}}
	now := m.readTSC()
	if len(s.TSC) == 0 || len(now) == 0 || !now[0].known {
		return nil // the counters go on from where SetState put them
	}
	first := s.TSC[0].TSC - (now[0].tsc - now[0].offset)
	for i, c := range m.runner.cpus() {
		offset := first + s.TSC[i].Offset - s.TSC[0].Offset
		if err := c.v.SetTSCOffset(offset); err != nil {
			return err
		}
		m.frozen.tsc = append(m.frozen.tsc, tscState{tsc: s.TSC[i].TSC, deadline: s.TSC[i].Deadline, offset: offset, known: true})
	}
	return nil
}

// save and restore are the machine clock's.
func (c *machineClock) save() ([]byte, error) { return json.Marshal(c.Now()) }

func (c *machineClock) restore(state []byte) error {
	return restoreJSON(func(d time.Duration) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.base, c.started = d, time.Time{}
		return nil
	})(state)
}

// cpuFeature is a register of CPUID whose bits are features: what a guest saw there it may use for ever.
type cpuFeature struct {
	leaf, index uint32
	regs        [4]bool // EAX, EBX, ECX, EDX
}

var cpuFeatures = []cpuFeature{
	{0x1, 0, [4]bool{2: true, 3: true}},
	{0x7, 0, [4]bool{1: true, 2: true, 3: true}},
	{0x7, 1, [4]bool{true, true, true, true}},
	{0x7, 2, [4]bool{3: true}},
	{0xd, 0, [4]bool{0: true, 3: true}},
	{0xd, 1, [4]bool{0: true, 2: true, 3: true}},
	{0x40000001, 0, [4]bool{true, false, false, true}},
	{0x80000001, 0, [4]bool{2: true, 3: true}},
	{0x80000007, 0, [4]bool{3: true}},
	{0x80000008, 0, [4]bool{1: true}},
	{0x80000021, 0, [4]bool{0: true}},
}

// adoptCPUID gives a vCPU the CPUID that the guest saw, if this host has every feature of it.
func (m *Machine) adoptCPUID(c *vcpu, was []kvm.CPUIDEntry) error {
	ours := m.guestCPUID(c.index)
	if slices.Equal(ours, was) {
		return nil
	}
	supported, err := m.sys.SupportedCPUID()
	if err != nil {
		return err
	}
	if a, b := leafOf(was, 0, 0), leafOf(ours, 0, 0); a.EBX != b.EBX || a.ECX != b.ECX || a.EDX != b.EDX {
		return errors.New("the guest was saved on a processor of another vendor")
	}
	for _, f := range cpuFeatures {
		a, b, s := leafOf(was, f.leaf, f.index), leafOf(ours, f.leaf, f.index), leafOf(supported, f.leaf, f.index)
		have := [4]uint32{b.EAX | s.EAX, b.EBX | s.EBX, b.ECX | s.ECX, b.EDX | s.EDX}
		for n, v := range [4]uint32{a.EAX, a.EBX, a.ECX, a.EDX} {
			if missing := v &^ have[n]; f.regs[n] && missing != 0 {
				return fmt.Errorf("the guest uses processor features that this host does not have: CPUID %#x.%d %s bits %#x",
					f.leaf, f.index, [4]string{"EAX", "EBX", "ECX", "EDX"}[n], missing)
			}
		}
	}
	if err := c.v.SetCPUID(was); err != nil {
		return err
	}
	c.leaves = was
	return nil
}

func leafOf(all []kvm.CPUIDEntry, leaf, index uint32) kvm.CPUIDEntry {
	for _, e := range all {
		if e.Function == leaf && (e.Flags&kvm.CPUIDSignificantIndex == 0 || e.Index == index) {
			return e
		}
	}
	return kvm.CPUIDEntry{}
}
