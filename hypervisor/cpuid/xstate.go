package cpuid

// xcr0 says which features need which state components (Intel SDM 1, 13.1).
var xcr0 = []struct {
	bits    uint64
	feature string
}{
	{1 << 2, "avx"}, {3 << 3, "mpx"}, {7 << 5, "avx512f"}, {1 << 9, "pku"}, {3 << 17, "amx-tile"},
}

// xstate makes leaf 0xd agree with the features: components without their feature go, and so does all of it without
// XSAVE. KVM keeps the sizes of what is enabled up to date (0xd.0 EBX, 0xd.1 EBX).
func xstate(l *leaves) {
	zero := l.get(0xd, 0)
	if !Lookup("xsave").in(*l) || zero == nil {
		setFeature(l, "xsave", false)
		for _, x := range xcr0 {
			setFeature(l, x.feature, false)
		}
		l.drop(0xd, 0xd)
		return
	}
	mask := uint64(zero.EAX) | uint64(zero.EDX)<<32
	for _, x := range xcr0 {
		if !Lookup(x.feature).in(*l) {
			mask &^= x.bits
		}
	}
	zero.EAX, zero.EDX = uint32(mask), uint32(mask>>32)
	supervisor := uint64(l.value(0xd, 1, ECX)) | uint64(l.value(0xd, 1, EDX))<<32
	if one := l.get(0xd, 1); one != nil && one.EAX&(1<<3) == 0 {
		one.ECX, one.EDX, supervisor = 0, 0, 0 // no supervisor state without XSAVES
	}
	size := uint32(576) // legacy area and header
	kept := (*l)[:0]
	for _, e := range *l {
		if e.Function == 0xd && e.Index >= 2 {
			bit := uint64(1) << (e.Index & 63)
			if e.Index > 63 || mask&bit == 0 && supervisor&bit == 0 {
				continue
			}
			if mask&bit != 0 {
				size = max(size, e.EAX+e.EBX)
			}
		}
		kept = append(kept, e)
	}
	*l = kept
	l.get(0xd, 0).ECX = size
}
