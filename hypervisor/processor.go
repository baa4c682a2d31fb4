package hypervisor

import (
	"fmt"

	"virtd/hypervisor/boot"
	"virtd/hypervisor/kvm"
)

// MaxCPUs is the most vCPUs of a machine.
const MaxCPUs = 64

// present returns the numbers of the vCPUs that are present at boot.
func (c *CPU) present() ([]int, error) {
	if c.Online < 1 || c.Online > c.Count || c.Count > MaxCPUs {
		return nil, fmt.Errorf("%d of %d vCPUs online: this engine runs 1 to %d", c.Online, c.Count, MaxCPUs)
	}
	if len(c.Present) == 0 {
		return firstCPUs(c.Online), nil
	}
	for n, i := range c.Present {
		if len(c.Present) != c.Online || i >= c.Count || n == 0 && i != 0 || n > 0 && i <= c.Present[n-1] {
			return nil, fmt.Errorf("vCPUs %v are not %d of %d in order, with the first", c.Present, c.Online, c.Count)
		}
	}
	return c.Present, nil
}

func firstCPUs(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// makeVCPUs creates the vCPUs that are present at boot and remembers how they are after power-on.
func (m *Machine) makeVCPUs() error {
	present, err := m.cfg.CPU.present()
	if err != nil {
		return err
	}
	if m.msrIndices, err = m.sys.MSRIndices(); err != nil {
		return err
	}
	for _, i := range present {
		c, err := m.createVCPU(i)
		if err != nil {
			return err
		}
		m.runner.put(c)
	}
	for _, c := range m.runner.cpus() {
		if err := m.initVCPU(c, m.guestCPUID(c.index), int(m.cfg.Clock.TSCKHz)); err != nil {
			return fmt.Errorf("vCPU %d: %w", c.index, err)
		}
	}
	return nil
}

func (m *Machine) createVCPU(i int) (*vcpu, error) {
	v, err := m.vm.CreateVCPU(int(m.cpuid.APICID(i)))
	if err != nil {
		return nil, err
	}
	return &vcpu{m: m, index: i, v: v}, nil
}

// initVCPU makes a new vCPU one that was just switched on, with that CPUID and that frequency of its time stamp counter
// in kHz, 0 for the host's.
func (m *Machine) initVCPU(c *vcpu, leaves []kvm.CPUIDEntry, khz int) error {
	if khz != 0 {
		if err := c.v.SetTSCKHz(khz); err != nil {
			return err
		}
	}
	if err := c.v.SetCPUID(leaves); err != nil {
		return err
	}
	refused, err := c.v.SetMSRs(powerOnMSRs)
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		m.host.Logf("vCPU %d: KVM refuses MSR %#x", c.index, refused)
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
	for _, c := range m.runner.cpus() {
		if _, err := c.v.SetState(c.initial); err != nil {
			return err
		}
	}
	bsp := m.runner.cpus()[0]
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
