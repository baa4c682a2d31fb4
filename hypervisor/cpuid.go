package hypervisor

import (
	"fmt"

	"virtd/hypervisor/cpuid"
	"virtd/hypervisor/kvm"
)

// makeCPUID decides what the guest's CPUID says on this host.
func (m *Machine) makeCPUID() error {
	host, err := m.hostCPUID()
	if err != nil {
		return err
	}
	c := &m.cfg.CPU
	spec := cpuid.Spec{
		Count: c.Count, Topology: cpuid.Topology(c.Topology), Mode: cpuid.Mode(c.Mode), Model: c.Model, Vendor: c.Vendor,
		Features: map[string]cpuid.Policy{}, Paravirt: c.Paravirt, KVMHidden: c.KVMHidden, NoKVMClock: m.cfg.Clock.NoKVMClk,
		NoAPIC: c.NoAPIC, PhysBits: c.PhysBits, Brand: cpuid.HostBrand(),
	}
	for name, policy := range c.Features {
		spec.Features[name] = cpuid.Policy(policy)
	}
	if c.NoPAE {
		spec.Features["pae"] = cpuid.Disable
	}
	if cpuid.WantsAMX(host, spec) {
		// Before the first vCPU, or never: the kernel fixes then what a guest may have.
		if err := kvm.PermitGuestTiles(); err != nil {
			m.host.Logf("guests get no AMX: %v", err)
		}
		if host, err = m.hostCPUID(); err != nil {
			return err
		}
	}
	if m.cpuid, err = cpuid.New(cpuid.PermittedAMX(host), spec); err != nil {
		return fmt.Errorf("CPU: %w", err)
	}
	return nil
}

// hostCPUID returns what KVM can offer this process's guests on this host.
func (m *Machine) hostCPUID() ([]cpuid.Entry, error) {
	supported, err := m.sys.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	host := make([]cpuid.Entry, len(supported))
	for i, e := range supported {
		host[i] = cpuid.Entry{Function: e.Function, Index: e.Index, Flags: e.Flags, EAX: e.EAX, EBX: e.EBX, ECX: e.ECX, EDX: e.EDX}
	}
	return host, nil
}

// guestCPUID returns the leaves of vCPU i.
func (m *Machine) guestCPUID(i int) []kvm.CPUIDEntry {
	leaves := m.cpuid.VCPU(i)
	out := make([]kvm.CPUIDEntry, len(leaves))
	for n, e := range leaves {
		out[n] = kvm.CPUIDEntry{Function: e.Function, Index: e.Index, Flags: e.Flags, EAX: e.EAX, EBX: e.EBX, ECX: e.ECX, EDX: e.EDX}
	}
	return out
}
