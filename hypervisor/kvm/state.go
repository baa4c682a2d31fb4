package kvm

import (
	"fmt"
	"slices"
)

func get[T any](v *VCPU, req uintptr, what string) (*T, error) {
	p := new(T)
	if _, err := ioctlPtr(v.fd, req, p); err != nil {
		return nil, fmt.Errorf("read %s of vCPU %d: %w", what, v.id, err)
	}
	return p, nil
}

func set[T any](v *VCPU, req uintptr, what string, p *T) error {
	if _, err := ioctlPtr(v.fd, req, p); err != nil {
		return fmt.Errorf("set %s of vCPU %d: %w", what, v.id, err)
	}
	return nil
}

// Regs returns the general registers.
func (v *VCPU) Regs() (*Regs, error) { return get[Regs](v, reqGetRegs, "registers") }

// SetRegs stores the general registers.
func (v *VCPU) SetRegs(r *Regs) error { return set(v, reqSetRegs, "registers", r) }

// SRegs returns the segment and control registers.
func (v *VCPU) SRegs() (*SRegs, error) { return get[SRegs](v, reqGetSRegs, "special registers") }

// SetSRegs stores the segment and control registers.
func (v *VCPU) SetSRegs(r *SRegs) error { return set(v, reqSetSRegs, "special registers", r) }

// FPU returns the x87 and SSE registers.
func (v *VCPU) FPU() (*FPU, error) { return get[FPU](v, reqGetFPU, "FPU") }

// SetFPU stores the x87 and SSE registers.
func (v *VCPU) SetFPU(f *FPU) error { return set(v, reqSetFPU, "FPU", f) }

// LAPIC returns the local APIC.
func (v *VCPU) LAPIC() (*LAPIC, error) { return get[LAPIC](v, reqGetLAPIC, "local APIC") }

// SetLAPIC stores the local APIC.
func (v *VCPU) SetLAPIC(l *LAPIC) error { return set(v, reqSetLAPIC, "local APIC", l) }

// XSave returns the extended state: as many bytes as this host's KVM has for the machine's processors.
func (v *VCPU) XSave() (XSave, error) {
	x := make(XSave, v.xsaveLen)
	req := uintptr(reqGetXSave)
	if len(x) > xsaveSize {
		req = reqGetXSave2
	}
	if _, err := ioctlPtr(v.fd, req, &x[0]); err != nil {
		return nil, fmt.Errorf("read xsave area of vCPU %d: %w", v.id, err)
	}
	return x, nil
}

// SetXSave stores the extended state, which may come from a host with a larger or smaller area. What this host has no
// place for must be in its initial configuration, which is all zeroes.
func (v *VCPU) SetXSave(x XSave) error {
	area := make(XSave, v.xsaveLen) // KVM reads so much
	if n := copy(area, x); slices.ContainsFunc(x[n:], func(b byte) bool { return b != 0 }) {
		return fmt.Errorf("set xsave area of vCPU %d: the processor's state takes %d bytes, of which this host has %d", v.id, len(x), len(area))
	}
	return set(v, reqSetXSave, "xsave area", &area[0])
}

// XCRs returns the extended control registers.
func (v *VCPU) XCRs() (*XCRs, error) { return get[XCRs](v, reqGetXCRs, "extended control registers") }

// SetXCRs stores the extended control registers.
func (v *VCPU) SetXCRs(x *XCRs) error { return set(v, reqSetXCRs, "extended control registers", x) }

// DebugRegs returns DR0 to DR7.
func (v *VCPU) DebugRegs() (*DebugRegs, error) {
	return get[DebugRegs](v, reqGetDebugRegs, "debug registers")
}

// SetDebugRegs stores DR0 to DR7.
func (v *VCPU) SetDebugRegs(d *DebugRegs) error {
	return set(v, reqSetDebugRegs, "debug registers", d)
}

// Events returns pending exceptions, interrupts and NMIs.
func (v *VCPU) Events() (*VCPUEvents, error) {
	return get[VCPUEvents](v, reqGetVCPUEvents, "pending events")
}

// SetEvents stores pending exceptions, interrupts and NMIs.
func (v *VCPU) SetEvents(e *VCPUEvents) error {
	return set(v, reqSetVCPUEvents, "pending events", e)
}

// MPState is what a vCPU of several does: KVM_MP_STATE_*.
type MPState uint32

// Multiprocessing states.
const (
	MPRunnable      MPState = 0
	MPUninitialized MPState = 1 // waits for INIT and SIPI
	MPInitReceived  MPState = 2
	MPHalted        MPState = 3
	MPSIPIReceived  MPState = 4
)

// MPState returns the multiprocessing state.
func (v *VCPU) MPState() (MPState, error) {
	s, err := get[MPState](v, reqGetMPState, "multiprocessing state")
	if err != nil {
		return 0, err
	}
	return *s, nil
}

// SetMPState stores the multiprocessing state.
func (v *VCPU) SetMPState(s MPState) error {
	return set(v, reqSetMPState, "multiprocessing state", &s)
}

// SetCPUID sets what CPUID answers. Before the first Run and before MSRs are read, whose existence depends on it.
func (v *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if len(entries) > maxCPUIDEntries {
		return fmt.Errorf("set CPUID of vCPU %d: %d entries, KVM takes %d", v.id, len(entries), maxCPUIDEntries)
	}
	c := &cpuid2{n: uint32(len(entries))}
	copy(c.entries[:], entries)
	return set(v, reqSetCPUID2, "CPUID", c)
}

// CPUID returns what CPUID answers.
func (v *VCPU) CPUID() ([]CPUIDEntry, error) {
	c := &cpuid2{n: maxCPUIDEntries}
	if _, err := ioctlPtr(v.fd, reqGetCPUID2, c); err != nil {
		return nil, fmt.Errorf("read CPUID of vCPU %d: %w", v.id, err)
	}
	n := int(c.n)
	// Kernels before 6.3 leave n as it was; entries they did not write are zero, as no entry but the first is.
	for n > 1 && c.entries[n-1] == (CPUIDEntry{}) {
		n--
	}
	return append([]CPUIDEntry(nil), c.entries[:n]...), nil
}

// MSRs returns the model-specific registers of the given indices that the vCPU has; those that KVM cannot read are
// left out.
func (v *VCPU) MSRs(indices []uint32) ([]MSR, error) {
	var out []MSR
	for len(indices) > 0 {
		m := &msrs{n: uint32(min(len(indices), maxMSRs))}
		for i := range m.n {
			m.entries[i].Index = indices[i]
		}
		n, err := ioctlPtr(v.fd, reqGetMSRs, m)
		if err != nil {
			return nil, fmt.Errorf("read MSRs of vCPU %d: %w", v.id, err)
		}
		out = append(out, m.entries[:n]...)
		if n < uintptr(m.n) {
			n++ // the one that failed
		}
		indices = indices[n:]
	}
	return out, nil
}

// SetMSRs stores model-specific registers and returns the indices that KVM refused.
func (v *VCPU) SetMSRs(values []MSR) (refused []uint32, err error) {
	for len(values) > 0 {
		m := &msrs{n: uint32(min(len(values), maxMSRs))}
		copy(m.entries[:], values[:m.n])
		n, err := ioctlPtr(v.fd, reqSetMSRs, m)
		if err != nil {
			return refused, fmt.Errorf("set MSRs of vCPU %d: %w", v.id, err)
		}
		if n < uintptr(m.n) {
			refused = append(refused, values[n].Index)
			n++
		}
		values = values[n:]
	}
	return refused, nil
}
