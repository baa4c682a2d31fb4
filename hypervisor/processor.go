package hypervisor

import (
	"errors"
	"fmt"

	"virtd/hypervisor/boot"
	"virtd/hypervisor/kvm"
)

// MaxCPUs is the most vCPUs of a machine.
const MaxCPUs = 64

// makeVCPUs creates the vCPUs that are present at boot and remembers how they are after power-on.
func (m *Machine) makeVCPUs() error {
	n := m.cfg.CPU.Online
	if n < 1 || n > m.cfg.CPU.Count || m.cfg.CPU.Count > MaxCPUs {
		return fmt.Errorf("%d of %d vCPUs online: this engine runs 1 to %d", n, m.cfg.CPU.Count, MaxCPUs)
	}
	var err error
	if m.msrIndices, err = m.sys.MSRIndices(); err != nil {
		return err
	}
	for i := range n {
		v, err := m.vm.CreateVCPU(int(m.cpuid.APICID(i)))
		if err != nil {
			return err
		}
		m.runner.cpus = append(m.runner.cpus, &vcpu{m: m, v: v})
	}
	for i, c := range m.runner.cpus {
		if err := m.initVCPU(i, c); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return nil
}

func (m *Machine) initVCPU(i int, c *vcpu) error {
	if khz := m.cfg.Clock.TSCKHz; khz != 0 {
		if err := c.v.SetTSCKHz(int(khz)); err != nil {
			return err
		}
	}
	if err := c.v.SetCPUID(m.guestCPUID(i)); err != nil {
		return err
	}
	refused, err := c.v.SetMSRs(powerOnMSRs)
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		m.host.Logf("vCPU %d: KVM refuses MSR %#x", i, refused)
	}
	if c.initial, err = c.v.State(m.msrIndices); err != nil {
		return err
	}
	c.initial.MSRs = withoutTime(c.initial.MSRs)
	return nil
}

// powerOnMSRs are what firmware leaves behind (Intel SDM 4, 2.1): fast string operations on, and memory write-back by
// default with the variable and fixed ranges off.
var powerOnMSRs = []kvm.MSR{
	{Index: 0x1a0, Value: 1},         // IA32_MISC_ENABLE
	{Index: 0x2ff, Value: 1<<11 | 6}, // IA32_MTRR_DEF_TYPE
}

// withoutTime makes time stamp counters start at 0 again: KVM takes that for a request to keep vCPUs in step.
func withoutTime(msrs []kvm.MSR) []kvm.MSR {
	for i := range msrs {
		if msrs[i].Index == msrTSC {
			msrs[i].Value = 0
		}
	}
	return msrs
}

// resetVCPUs puts all vCPUs back to power-on and the first one to the entry of the kernel.
func (m *Machine) resetVCPUs(entry *boot.VCPU) error {
	for _, c := range m.runner.cpus {
		if _, err := c.v.SetState(c.initial); err != nil {
			return err
		}
	}
	if len(m.runner.cpus) == 0 {
		return errors.New("no vCPU")
	}
	bsp := m.runner.cpus[0]
	s := bsp.initial.SRegs
	applyEntry(&s, entry)
	if err := bsp.v.SetSRegs(&s); err != nil {
		return err
	}
	return bsp.v.SetRegs(&kvm.Regs{RIP: entry.RIP, RSP: entry.RSP, RBX: entry.RBX, RSI: entry.RSI, RFLAGS: entry.RFLAGS | 2})
}

func applyEntry(s *kvm.SRegs, e *boot.VCPU) {
	s.CR0, s.CR3, s.CR4, s.EFER = e.CR0, e.CR3, e.CR4, e.EFER
	s.GDT = kvm.DTable{Base: e.GDT.Base, Limit: e.GDT.Limit}
	s.IDT = kvm.DTable{Base: e.IDT.Base, Limit: e.IDT.Limit}
	s.CS, s.TR = segment(e.CS), segment(e.TR)
	data := segment(e.Data)
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
}

func segment(e boot.Segment) kvm.Segment {
	flag := func(b bool) uint8 {
		if b {
			return 1
		}
		return 0
	}
	return kvm.Segment{Base: e.Base, Limit: e.Limit, Selector: e.Selector, Type: e.Type, Present: flag(e.Present), DPL: e.DPL,
		DB: flag(e.Big), S: flag(e.S), L: flag(e.Long), G: flag(e.Granular)}
}
