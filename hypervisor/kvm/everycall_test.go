package kvm

import (
	"slices"
	"testing"
)

// TestEveryCall uses what no other test does, so that each request number has been to a kernel.
func TestEveryCall(t *testing.T) {
	g := newGuest(t, 1, "ebfe")
	g.check(g.vm.CreatePIT2())
	p, err := g.vm.PIT()
	g.check(err)
	g.check(g.vm.SetPIT(p))
	g.check(g.vm.IRQLine(4, true))
	g.check(g.vm.IRQLine(4, false))
	for _, id := range []uint32{ChipPICMaster, ChipPICSlave, ChipIOAPIC} {
		c, err := g.vm.IRQChip(id)
		g.check(err)
		g.check(g.vm.SetIRQChip(c))
	}
	sys, err := Open()
	g.check(err)
	defer sys.Close()
	cpuid, err := sys.SupportedCPUID()
	g.check(err)
	v := g.cpu[0]
	g.check(v.SetCPUID(cpuid))
	back, err := v.CPUID()
	g.check(err)
	for _, e := range cpuid {
		// a leaf of zeros is like one that is not there, and some kernels drop it
		if e.EAX|e.EBX|e.ECX|e.EDX != 0 && !slices.ContainsFunc(back, func(b CPUIDEntry) bool { return b.Function == e.Function && b.Index == e.Index }) {
			t.Errorf("CPUID %#x.%#x was set and does not come back", e.Function, e.Index)
		}
	}
	f, err := v.FPU()
	g.check(err)
	g.check(v.SetFPU(f))
	g.check(v.NMI())
	khz, err := v.TSCKHz()
	g.check(err)
	if khz < 100_000 {
		t.Errorf("TSC of %d kHz", khz)
	}
	if n, err := g.vm.Check(CapMaxVCPUs); err != nil || n < 1 {
		t.Errorf("max vCPUs %d, %v", n, err)
	}
}
