package cpuid

import "slices"

// The state of AMX is large, so that Linux gives it to guests only when their process asked (arch_prctl with
// ARCH_REQ_XCOMP_GUEST_PERM). Until then KVM lists AMX's features, and its state components not.

// tileComponents are XTILECFG and XTILEDATA in XCR0 (Intel SDM 1, 13.1).
const tileComponents = 3 << 17

// amxFeatures are of no use without the tiles.
var amxFeatures = []string{"amx-tile", "amx-bf16", "amx-int8", "amx-fp16", "amx-complex"}

// WantsAMX reports whether a machine's CPUID would have AMX if the process had asked for it.
func WantsAMX(supported []Entry, s Spec) bool {
	if !Lookup("amx-tile").in(supported) {
		return false
	}
	l := leaves(slices.Clone(supported))
	if e := l.get(0xd, 0); e != nil {
		e.EAX |= tileComponents
	}
	g, err := New(l, s)
	return err == nil && Lookup("amx-tile").in(g.common)
}

// PermittedAMX returns supported without AMX where its state is not to be had.
func PermittedAMX(supported []Entry) []Entry {
	l := leaves(slices.Clone(supported))
	if e := l.get(0xd, 0); e != nil && e.EAX&tileComponents == tileComponents {
		return l
	}
	for _, name := range amxFeatures {
		setFeature(&l, name, false)
	}
	return l
}
