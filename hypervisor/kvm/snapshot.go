package kvm

import (
	"fmt"
	"slices"
)

// State is everything the kernel keeps of one vCPU, in the order in which it must be set again.
type State struct {
	Regs      Regs
	SRegs     SRegs
	XSave     XSave
	XCRs      XCRs
	LAPIC     LAPIC
	MSRs      []MSR
	DebugRegs DebugRegs
	Events    VCPUEvents
	MPState   MPState
}

// State reads the vCPU, whose thread must not be in Run and must have completed its last access. indices are the MSRs to
// keep, from System.MSRIndices.
func (v *VCPU) State(indices []uint32) (*State, error) {
	var s State
	var err error
	// MP state first: reading it folds a pending INIT or SIPI into the registers.
	if s.MPState, err = v.MPState(); err != nil {
		return nil, err
	}
	for _, part := range []func() error{
		func() error { return into(&s.Regs, v.Regs) },
		func() error { return into(&s.SRegs, v.SRegs) },
		func() error { s.XSave, err = v.XSave(); return err },
		func() error { return into(&s.XCRs, v.XCRs) },
		func() error { return into(&s.LAPIC, v.LAPIC) },
		func() error { s.MSRs, err = v.MSRs(indices); return err },
		func() error { return into(&s.DebugRegs, v.DebugRegs) },
		func() error { return into(&s.Events, v.Events) },
	} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return &s, nil
}

func into[T any](dst *T, read func() (*T, error)) error {
	p, err := read()
	if err == nil {
		*dst = *p
	}
	return err
}

// tscDeadline is IA32_TSC_DEADLINE, which a local APIC in another timer mode ignores: it is set after the APIC.
const tscDeadline = 0x6e0

// SetState makes the vCPU what State read, of this or another machine with the same CPUID. It returns the MSRs that KVM
// refused; for some that only the kernel writes this is normal.
func (v *VCPU) SetState(s *State) (refused []uint32, err error) {
	// A fresh copy: the kernel takes pointers, and the caller may reset several times from one State.
	c := *s
	c.MSRs = slices.Clone(s.MSRs)
	slices.SortStableFunc(c.MSRs, func(a, b MSR) int { return late(a.Index) - late(b.Index) })
	c.Events.Flags |= eventsSetAll
	for _, part := range []func() error{
		func() error { return v.SetSRegs(&c.SRegs) },
		func() error { return v.SetXCRs(&c.XCRs) },
		func() error { return v.SetXSave(c.XSave) },
		func() error { return v.SetRegs(&c.Regs) },
		func() error { return v.SetLAPIC(&c.LAPIC) },
		func() (err error) { refused, err = v.SetMSRs(c.MSRs); return err },
		func() error { return v.SetDebugRegs(&c.DebugRegs) },
		func() error { return v.SetMPState(c.MPState) },
		func() error { return v.SetEvents(&c.Events) },
	} {
		if err := part(); err != nil {
			return refused, fmt.Errorf("restore state: %w", err)
		}
	}
	return refused, nil
}

// eventsSetAll asks KVM_SET_VCPU_EVENTS to take the NMI, SIPI vector and interrupt shadow too.
const eventsSetAll = 1 | 2 | 4

func late(index uint32) int {
	if index == tscDeadline {
		return 1
	}
	return 0
}
