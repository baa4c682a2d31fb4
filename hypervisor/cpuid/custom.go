package cpuid

import "fmt"

// customLeaves builds the CPUID of a named model. Only what a guest cannot notice, or what KVM dictates, comes from the
// host: the state components' sizes and the linear address width.
func customLeaves(host leaves, s *Spec) (leaves, error) {
	m := models[s.Model]
	if m == nil {
		return nil, fmt.Errorf("unknown CPU model %q", s.Model)
	}
	var l leaves
	vendor := vendorOf(host)
	if s.Vendor != "" {
		vendor = s.Vendor
	}
	switch vendor {
	case Intel, AMD, Hygon:
	default:
		return nil, fmt.Errorf("unknown CPU vendor %q", vendor)
	}
	setVendor(&l, vendor)
	l.set(1, 0, m.signature(vendor), 8<<8, 0, 0)
	var missing []string
	for _, name := range m.features {
		if policy := s.Features[name]; policy == Disable || policy == Forbid || policy == Optional {
			if policy != Optional || !Lookup(name).in(host) {
				continue
			}
		}
		if !Lookup(name).in(host) && s.Features[name] != Force {
			if !whenAvailable[name] {
				missing = append(missing, name)
			}
			continue
		}
		setFeature(&l, name, true)
	}
	if len(missing) > 0 {
		return nil, &IncompatibleError{Missing: missing}
	}
	setFeature(&l, "x2apic", true)       // KVM emulates it on every host, and guests boot faster
	instructions := l.value(0xd, 1, EAX) // the model's; the sizes are the host's
	l.drop(0xd, 0xd)
	for _, e := range host {
		if e.Function == 0xd {
			if e.Index == 1 {
				e.EAX = instructions
			}
			l = append(l, e)
		}
	}
	brandLeaves(&l, m.brand())
	cacheLeaves(&l, vendor != Intel)
	l.make(0x80000007, 0)
	return l, nil
}

// brandLeaves writes the brand string to 0x80000002 to 4.
func brandLeaves(l *leaves, brand string) {
	var b [48]byte
	copy(b[:47], brand)
	for i := range 3 {
		word := func(n int) uint32 {
			p := b[16*i+4*n:]
			return uint32(p[0]) | uint32(p[1])<<8 | uint32(p[2])<<16 | uint32(p[3])<<24
		}
		l.set(0x80000002+uint32(i), 0, word(0), word(1), word(2), word(3))
	}
}

// cache is one cache of the models: the same for all, so that a guest sees no change when it moves between hosts.
type cache struct {
	kind, level uint32 // kind: 1 data, 2 instruction, 3 unified
	ways, sets  uint32
	inclusive   bool
}

var caches = []cache{
	{kind: 1, level: 1, ways: 8, sets: 64},
	{kind: 2, level: 1, ways: 8, sets: 64},
	{kind: 3, level: 2, ways: 8, sets: 1024},
	{kind: 3, level: 3, ways: 16, sets: 16384, inclusive: true},
}

const lineSize = 64

// cacheLeaves writes the caches where the vendor's guests look: leaf 4 for Intel (SDM 2A), 0x80000005, 6 and 0x8000001d
// for AMD (APM 3, E.4.4 and E.4.15). Who shares them is topologyLeaves' part.
func cacheLeaves(l *leaves, amd bool) {
	leaf := uint32(4)
	if amd {
		leaf = 0x8000001d
		// 32 KiB, 8 ways, 1 line a tag, 64-byte lines; 4 KiB TLBs of 64 entries, fully associative.
		l.set(0x80000005, 0, 0xff40ff40, 0xff40ff40, 32<<24|8<<16|1<<8|lineSize, 32<<24|8<<16|1<<8|lineSize)
		// 512 KiB, 8 ways (6); 16 MiB in units of 512 KiB, 16 ways (8).
		l.set(0x80000006, 0, 0, 0x42004200, 512<<16|6<<12|1<<8|lineSize, 32<<18|8<<12|1<<8|lineSize)
	} else {
		l.set(0x80000006, 0, 0, 0, 512<<16|6<<12|lineSize, 0)
		// Leaf 2 says only that leaf 4 has the caches.
		l.set(2, 0, 0x00ffff01, 0, 0, 0)
	}
	for i, c := range caches {
		edx := uint32(0)
		if c.inclusive {
			edx = 1 << 1
		}
		l.set(leaf, uint32(i), 1<<8|c.level<<5|c.kind, (c.ways-1)<<22|(lineSize-1), c.sets-1, edx)
	}
	l.set(leaf, uint32(len(caches)), 0, 0, 0, 0)
}
