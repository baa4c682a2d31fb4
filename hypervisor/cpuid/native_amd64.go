package cpuid

import "strings"

// native runs the CPUID instruction on this processor.
func native(function, index uint32) (eax, ebx, ecx, edx uint32)

// HostBrand returns this processor's brand string, which KVM_GET_SUPPORTED_CPUID leaves out, or "".
func HostBrand() string {
	if last, _, _, _ := native(0x80000000, 0); last < 0x80000004 {
		return ""
	}
	var b []byte
	for i := range uint32(3) {
		eax, ebx, ecx, edx := native(0x80000002+i, 0)
		for _, r := range []uint32{eax, ebx, ecx, edx} {
			b = append(b, byte(r), byte(r>>8), byte(r>>16), byte(r>>24))
		}
	}
	return strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
}
