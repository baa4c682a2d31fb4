package kvm

import (
	"virtd/domain"
	"virtd/hypervisor"
	"virtd/virterr"
)

// vendors are libvirt's names for what CPUID says.
var vendors = map[string]string{"Intel": "GenuineIntel", "AMD": "AuthenticAMD", "Hygon": "HygonGenuine"}

func (p *planner) cpu() error {
	c := hypervisor.CPU{Count: p.def.VCPUs(), Online: p.def.CurrentVCPUs(), Paravirt: map[string]bool{}, Features: map[string]string{}}
	if online := p.def.OnlineVCPUs(); online[len(online)-1] != len(online)-1 {
		c.Present = online
	}
	c.Topology = hypervisor.Topology{Sockets: c.Count, Dies: 1, Clusters: 1, Cores: 1, Threads: 1}
	p.cfg.CPU = c
	p.cpuFeatures()
	if err := p.cpuModel(); err != nil {
		return err
	}
	if f := p.view.Features; f == nil || f.ACPI == nil {
		p.cfg.CPU.NoACPI = true
	}
	return nil
}

func (p *planner) cpuModel() error {
	cpu, out := p.view.CPU, &p.cfg.CPU
	switch cpu.Mode {
	case "host-passthrough":
		out.Mode = hypervisor.CPUHostPassthrough
	case "maximum":
		out.Mode = hypervisor.CPUMaximum
	case "custom":
		out.Mode, out.Model = hypervisor.CPUCustom, cpu.Model.Value
		out.Vendor = vendors[cpu.Vendor]
		if cpu.Model.VendorID != "" {
			out.Vendor = cpu.Model.VendorID
		}
	default:
		return virterr.New(virterr.InternalError, "cpu mode '%s' of domain '%s' was not expanded", cpu.Mode, p.def.Name())
	}
	if t := cpu.Topology; t != nil {
		out.Topology = hypervisor.Topology{Sockets: t.Sockets, Dies: max(t.Dies, 1), Clusters: max(t.Clusters, 1),
			Cores: t.Cores, Threads: t.Threads}
	}
	if m := cpu.MaxPhysAddr; m != nil && m.Mode == "emulate" {
		out.PhysBits = int(m.Bits)
	}
	for _, f := range cpu.Features {
		if domain.IsParavirtFeature(f.Name) {
			p.paravirt(f.Name, f.Policy != "disable" && f.Policy != "forbid")
			continue
		}
		out.Features[f.Name] = f.Policy
	}
	return nil
}

func (p *planner) paravirt(name string, on bool) {
	p.cfg.CPU.Paravirt[name] = on
}

// cpuFeatures takes over what <features> says about KVM.
func (p *planner) cpuFeatures() {
	f := p.view.Features
	if f == nil {
		return
	}
	if f.APIC != nil && f.APIC.EOI != "" {
		p.paravirt("kvm-pv-eoi", f.APIC.EOI == "on")
	}
	if f.PVSpinlock != nil {
		p.paravirt("kvm-pv-unhalt", f.PVSpinlock.State != "off")
	}
	kvm := f.KVM
	if kvm == nil {
		return
	}
	if kvm.Hidden != nil {
		p.cfg.CPU.KVMHidden = kvm.Hidden.State == "on"
	}
	if kvm.PVIPI != nil {
		p.paravirt("kvm-pv-ipi", kvm.PVIPI.State == "on")
	}
	if kvm.PollControl != nil {
		p.paravirt("kvm-poll-control", kvm.PollControl.State == "on")
	}
}

// VCPUPins returns the host CPUs that the definition binds each vCPU to: its own vcpupin, else <vcpu cpuset=>. A vCPU
// without either is absent.
func VCPUPins(def *domain.Definition) map[int][]int {
	pins := map[int][]int{}
	view := def.View()
	if view.VCPU != nil && view.VCPU.CPUSet != "" {
		if cpus, err := domain.ParseCPUSet(view.VCPU.CPUSet); err == nil {
			for v := range def.VCPUs() {
				pins[v] = cpus
			}
		}
	}
	if view.CPUTune == nil {
		return pins
	}
	for _, pin := range view.CPUTune.VCPUPin {
		if cpus, err := domain.ParseCPUSet(pin.CPUSet); err == nil {
			pins[int(pin.VCPU)] = cpus
		}
	}
	return pins
}
