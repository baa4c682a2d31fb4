package cpuid

import (
	"fmt"
	"slices"
	"strings"
)

// Mode says where the guest's CPUID comes from.
type Mode string

// Modes, as libvirt's <cpu mode=>. host-model comes expanded as Custom.
const (
	HostPassthrough Mode = "host-passthrough"
	Maximum         Mode = "maximum"
	Custom          Mode = "custom"
)

// Policy says what becomes of a feature, as libvirt's <feature policy=>.
type Policy string

// Policies.
const (
	Force    Policy = "force"    // on, whatever the host
	Require  Policy = "require"  // on; the host must have it
	Optional Policy = "optional" // on when the host has it
	Disable  Policy = "disable"  // off
	Forbid   Policy = "forbid"   // off; the host must not have it
)

// Spec is the processors of a domain: hypervisor.Config's CPU and Clock, as far as CPUID shows them.
type Spec struct {
	Count    int
	Topology Topology
	Mode     Mode
	Model    string            // for Custom
	Vendor   string            // for Custom: GenuineIntel or AuthenticAMD; empty is the host's
	Features map[string]Policy // by feature name
	Paravirt map[string]bool   // by ParavirtNames; absent is on when the host has it
	// KVMHidden leaves out KVM's signature and paravirtual features.
	KVMHidden  bool
	NoKVMClock bool
	NoAPIC     bool
	PhysBits   int // guest physical address bits; 0 is the host's
	// Brand is the brand string of the passthrough modes, HostBrand's; empty keeps what supported has.
	Brand string
}

// IncompatibleError says which features the host lacks, or has and must not.
type IncompatibleError struct {
	Missing   []string
	Forbidden []string
}

// Error implements error.
func (e *IncompatibleError) Error() string {
	if len(e.Missing) > 0 {
		return "host CPU does not provide required features: " + strings.Join(e.Missing, ", ")
	}
	return "host CPU provides forbidden features: " + strings.Join(e.Forbidden, ", ")
}

// Guest is the CPUID of a machine.
type Guest struct {
	common   leaves
	topology Topology
	count    int
}

// New computes the CPUID of a machine on a host whose KVM_GET_SUPPORTED_CPUID is supported. It fails with an
// IncompatibleError when the host cannot provide it.
func New(supported []Entry, s Spec) (*Guest, error) {
	t, err := s.Topology.Normalize(s.Count)
	if err != nil {
		return nil, err
	}
	host := hostLeaves(supported)
	var l leaves
	switch s.Mode {
	case HostPassthrough, Maximum:
		l = slices.Clone(host)
		setFeature(&l, "invtsc", false) // the guest's clock stands still while paused, unless it is asked for
		if s.Brand != "" {
			brandLeaves(&l, s.Brand)
		}
	case Custom:
		if l, err = customLeaves(host, &s); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("unknown CPU mode %q", s.Mode)
	}
	if err := applyPolicies(&l, host, s.Features); err != nil {
		return nil, err
	}
	finish(&l, host, &s, t)
	return &Guest{l, t, s.Count}, nil
}

// VCPU returns the leaves of vCPU i, in order.
func (g *Guest) VCPU(i int) []Entry {
	l := slices.Clone(g.common)
	perVCPU(&l, g.topology, i)
	return l
}

// APICID returns the APIC identifier of vCPU i, for the MADT and KVM_CREATE_VCPU.
func (g *Guest) APICID(i int) uint32 { return g.topology.APICID(i) }

// PhysBits returns the guest's physical address bits.
func (g *Guest) PhysBits() int { return int(g.common.value(0x80000008, 0, EAX) & 0xff) }

// Topology returns the topology with every field filled in.
func (g *Guest) Topology() Topology { return g.topology }

// hostLeaves is what a guest can get on this host: KVM's list, and what KVM emulates without listing it. Leaves of
// other vendors' extensions are left out.
func hostLeaves(supported []Entry) leaves {
	var l leaves
	for _, e := range supported {
		if e.Function < 0xc0000000 {
			if !indexed(e.Function) {
				e.Flags, e.Index = 0, 0
			}
			l = append(l, e)
		}
	}
	setFeature(&l, "tsc-deadline", true) // KVM_CAP_TSC_DEADLINE_TIMER, all supported kernels
	setFeature(&l, "x2apic", true)
	setFeature(&l, "hypervisor", true) // Linux hangs in timer calibration without it and the KVM leaves
	setFeature(&l, "osxsave", false)   // mirrors CR4; KVM updates it
	setFeature(&l, "ospke", false)
	return l
}

// HostFeatures returns the names of what guests can get on a host.
func HostFeatures(supported []Entry) []string { return Names(hostLeaves(supported)) }

// applyPolicies changes features as the domain asks for. Names that libvirt knows but that are no CPUID bits are never
// available.
func applyPolicies(l *leaves, host leaves, policies map[string]Policy) error {
	bad := &IncompatibleError{}
	for _, name := range sortedKeys(policies) {
		f, policy := Lookup(name), policies[name]
		if f == nil && !known(name) {
			return fmt.Errorf("unknown CPU feature %q", name)
		}
		has := f != nil && f.in(host)
		switch policy {
		case Force, Require, Optional:
			if f == nil || policy != Force && !has {
				if policy != Optional {
					bad.Missing = append(bad.Missing, name)
				}
				continue
			}
			f.setIn(l, true)
		case Disable, Forbid:
			if policy == Forbid && has {
				bad.Forbidden = append(bad.Forbidden, name)
			}
			if f != nil {
				f.setIn(l, false)
			}
		default:
			return fmt.Errorf("unknown policy %q of CPU feature %s", policy, name)
		}
	}
	if len(bad.Missing)+len(bad.Forbidden) > 0 {
		return bad
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// finish writes everything that follows from the rest.
func finish(l *leaves, host leaves, s *Spec, t Topology) {
	amd := isAMD(*l)
	if s.NoAPIC {
		for _, name := range []string{"apic", "x2apic", "tsc-deadline"} {
			setFeature(l, name, false)
		}
	}
	setFeature(l, "hypervisor", true)
	if e := l.get(1, 0); e.EBX&0xff00 == 0 {
		e.EBX |= 8 << 8 // CLFLUSH line of 64 bytes
	}
	addressBits(l, host, s)
	xstate(l)
	topologyLeaves(l, t, amd)
	if !Lookup("topoext").in(*l) {
		l.drop(0x8000001d, 0x8000001e)
	} else {
		l.make(0x8000001e, 0)
	}
	if amd {
		mirror(l)
	}
	kvmLeaves(l, host, s)
	limits(l)
	l.sort()
}

// customPhysBits is what a named model shows unless the domain says otherwise, so that a guest finds the same on hosts
// that have more: 1 TiB.
const customPhysBits = 40

// addressBits sets the width of physical and linear addresses.
func addressBits(l *leaves, host leaves, s *Spec) {
	e := l.make(0x80000008, 0)
	eax := host.value(0x80000008, 0, EAX)
	phys, linear := eax&0xff, eax>>8&0xff
	if phys == 0 {
		phys, linear = 36, 48
	}
	if s.Mode == Custom {
		phys = min(phys, customPhysBits)
	}
	if s.PhysBits != 0 {
		phys = uint32(s.PhysBits)
	}
	e.EAX = phys | linear<<8
}

// mirrored are the bits of leaf 1 EDX that AMD repeats in 0x80000001 EDX (APM 3, appendix E.4.2).
const mirrored = 0x0183f3ff

func mirror(l *leaves) {
	e := l.make(0x80000001, 0)
	e.EDX = e.EDX&^mirrored | l.value(1, 0, EDX)&mirrored
}

// limits sets the highest leaves, and the highest subleaf of leaf 7, to what is there.
func limits(l *leaves) {
	var basic, extended, seven uint32
	for _, e := range *l {
		switch {
		case e.Function < kvmSignature:
			if e.Function == 7 {
				seven = max(seven, e.Index)
			}
			basic = max(basic, e.Function)
		case e.Function >= 0x80000000:
			extended = max(extended, e.Function)
		}
	}
	l.make(0, 0).EAX = basic
	zero := *l.make(0, 0)
	l.set(0x80000000, 0, extended, zero.EBX, zero.ECX, zero.EDX)
	if e := l.get(7, 0); e != nil {
		e.EAX = seven
	}
}

// Vendors as leaf 0 spells them.
const (
	Intel = "GenuineIntel"
	AMD   = "AuthenticAMD"
	Hygon = "HygonGenuine"
)

// vendorOf returns the vendor string.
func vendorOf(l leaves) string {
	e := l.get(0, 0)
	if e == nil {
		return ""
	}
	var b []byte
	for _, r := range []uint32{e.EBX, e.EDX, e.ECX} {
		b = append(b, byte(r), byte(r>>8), byte(r>>16), byte(r>>24))
	}
	return string(b)
}

func setVendor(l *leaves, vendor string) {
	word := func(i int) uint32 {
		return uint32(vendor[i]) | uint32(vendor[i+1])<<8 | uint32(vendor[i+2])<<16 | uint32(vendor[i+3])<<24
	}
	e := l.make(0, 0)
	e.EBX, e.EDX, e.ECX = word(0), word(4), word(8)
}

func isAMD(l leaves) bool {
	v := vendorOf(l)
	return v == AMD || v == Hygon
}

// HostVendor returns the host's vendor string.
func HostVendor(supported []Entry) string { return vendorOf(supported) }
