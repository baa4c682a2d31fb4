package cpuid

// KVM's own leaves (Linux Documentation/virt/kvm/x86/cpuid.rst).
const (
	kvmSignature = 0x40000000
	kvmFeatures  = 0x40000001
	kvmLast      = 0x4fffffff
)

// paravirt are the switches by the names that libvirt and QEMU use, with their bits in EAX of leaf 0x40000001.
var paravirt = []struct {
	name string
	bits uint32
}{
	{"kvmclock", 1<<0 | 1<<3 | 1<<24}, // old and new MSRs, stable bit
	{"kvm-nopiodelay", 1 << 1},
	{"kvm-asyncpf", 1<<4 | 1<<10 | 1<<14}, // with delivery as VM exit and by interrupt
	{"kvm-steal-time", 1 << 5},
	{"kvm-pv-eoi", 1 << 6},
	{"kvm-pv-unhalt", 1 << 7},
	{"kvm-pv-tlb-flush", 1 << 9},
	{"kvm-pv-ipi", 1 << 11},
	{"kvm-poll-control", 1 << 12},
	{"kvm-pv-sched-yield", 1 << 13},
	{"kvm-asyncpf-int", 1 << 14},
	{"kvmclock-stable-bit", 1 << 24},
}

// offered are the bits named above. Any other feature that a future host reports stays hidden, because the engine may
// have to take part in it.
func offered() uint32 {
	var all uint32
	for _, p := range paravirt {
		all |= p.bits
	}
	return all
}

// ParavirtNames returns the switches that Spec.Paravirt knows.
func ParavirtNames() []string {
	var out []string
	for _, p := range paravirt {
		out = append(out, p.name)
	}
	return out
}

// kvmLeaves writes the signature and the paravirtual features that the host has and s does not switch off.
func kvmLeaves(l *leaves, host leaves, s *Spec) {
	l.drop(kvmSignature, kvmLast)
	if s.KVMHidden {
		return
	}
	features := host.value(kvmFeatures, 0, EAX) & offered()
	for _, p := range paravirt {
		if on, given := s.Paravirt[p.name]; given && !on {
			features &^= p.bits
		}
	}
	if s.NoKVMClock {
		features &^= paravirt[0].bits
	}
	if s.NoAPIC {
		features &^= 1<<6 | 1<<11 // end of interrupt and inter-processor interrupts need the local APIC
	}
	l.set(kvmSignature, 0, kvmFeatures, 0x4b4d564b, 0x564b4d56, 0x4d) // KVMKVMKVM
	l.set(kvmFeatures, 0, features, 0, 0, 0)
}
