package cpuid

import (
	"sort"
	"strings"
)

// Feature is a bit of a CPUID leaf that libvirt has a name for.
type Feature struct {
	Name            string
	Function, Index uint32
	Register        Register
	Bit             uint8
}

// group is the features of one register, lowest bit first; an empty name is a bit without one.
type group struct {
	function, index uint32
	register        Register
	names           string // "bit:name" or "name" for the bit after the last, separated by spaces
}

var groups = []group{
	{0x1, 0, EDX, "0:fpu vme de pse tsc msr pae mce cx8 apic 11:sep mtrr pge mca cmov pat pse36 pn clflush 21:ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"},
	{0x1, 0, ECX, "0:pni pclmuldq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid 12:fma cx16 xtpr pdcm 17:pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave osxsave avx f16c rdrand hypervisor"},
	{0x6, 0, EAX, "2:arat"},
	{0x7, 0, EBX, "0:fsgsbase tsc_adjust sgx bmi1 hle avx2 7:smep bmi2 erms invpcid rtm cmt 14:mpx 16:avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl"},
	{0x7, 0, ECX, "1:avx512vbmi umip pku ospke waitpkg avx512vbmi2 shstk gfni vaes vpclmulqdq avx512vnni avx512bitalg 14:avx512-vpopcntdq 16:la57 22:rdpid 24:bus-lock-detect cldemote 27:movdiri movdir64b 30:sgxlc pks"},
	{0x7, 0, EDX, "2:avx512-4vnniw avx512-4fmaps fsrm 8:avx512-vp2intersect 10:md-clear 14:serialize 16:tsx-ldtrk 18:pconfig arch-lbr ibt 22:amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd"},
	{0x7, 1, EAX, "0:sha512 sm3 sm4 4:avx-vnni avx512-bf16 7:cmpccxadd 10:fzrm fsrs fsrc 17:fred lkgs wrmsrns 21:amx-fp16 23:avx-ifma 26:lam"},
	{0x7, 1, EDX, "4:avx-vnni-int8 avx-ne-convert 8:amx-complex 10:avx-vnni-int16 14:prefetchiti 19:avx10"},
	{0x7, 2, EDX, "0:intel-psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no"},
	{0xd, 1, EAX, "0:xsaveopt xsavec xgetbv1 xsaves xfd"},
	{0x80000001, 0, EDX, "11:syscall 19:mp nx 22:mmxext 25:fxsr_opt pdpe1gb rdtscp 29:lm 3dnowext 3dnow"},
	{0x80000001, 0, ECX, "0:lahf_lm cmp_legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt 15:lwp fma4 tce 19:nodeid_msr 21:tbm topoext perfctr_core perfctr_nb"},
	{0x80000007, 0, EBX, "0:overflow-recov succor"},
	{0x80000007, 0, EDX, "8:invtsc"},
	{0x80000008, 0, EBX, "0:clzero 2:xsaveerptr 9:wbnoinvd 12:ibpb 14:ibrs amd-stibp 17:stibp-always-on 24:amd-ssbd virt-ssbd amd-no-ssb 28:amd-psfd btc-no ibpb-ret"},
	{0x8000000a, 0, EDX, "0:npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists 10:pause-filter 12:pfthreshold avic 15:v-vmsave-vmload vgif 25:vnmi 28:svme-addr-chk"},
	{0x8000001f, 0, EAX, "0:sme sev 3:sev-es sev-snp"},
	{0x80000021, 0, EAX, "0:no-nested-data-bp fs-gs-base-ns lfence-always-serializing 6:null-sel-clr-base 8:auto-ibrs 20:prefetchi 24:eraps 27:sbpb ibpb-brtype srso-no srso-user-kernel-no"},
}

// aliases are other names that libvirt or QEMU users write.
var aliases = map[string]string{
	"sse3": "pni", "pclmulqdq": "pclmuldq", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "sse4-1": "sse4.1", "sse4-2": "sse4.2",
	"ffxsr": "fxsr_opt", "i64": "lm", "xd": "nx", "tsc_deadline": "tsc-deadline", "tsc-adjust": "tsc_adjust",
	"ds-cpl": "ds_cpl", "lahf-lm": "lahf_lm", "cmp-legacy": "cmp_legacy", "nodeid-msr": "nodeid_msr",
	"perfctr-core": "perfctr_core", "perfctr-nb": "perfctr_nb", "fxsr-opt": "fxsr_opt", "avx512_vpopcntdq": "avx512-vpopcntdq",
}

var (
	features = buildFeatures()
	byName   = indexFeatures()
)

func buildFeatures() []Feature {
	var out []Feature
	for _, g := range groups {
		bit := 0
		for _, word := range strings.Fields(g.names) {
			if at, name, ok := strings.Cut(word, ":"); ok {
				bit = 0
				for _, c := range at {
					bit = bit*10 + int(c-'0')
				}
				word = name
			}
			out = append(out, Feature{word, g.function, g.index, g.register, uint8(bit)})
			bit++
		}
	}
	return out
}

func indexFeatures() map[string]*Feature {
	m := make(map[string]*Feature, len(features))
	for i := range features {
		m[features[i].Name] = &features[i]
	}
	return m
}

// Lookup returns the feature with a name or one of its aliases, or nil.
func Lookup(name string) *Feature {
	if f := byName[name]; f != nil {
		return f
	}
	return byName[aliases[name]]
}

// Features returns all features in the order of their leaves. The caller must not change the slice.
func Features() []Feature { return features }

// known reports whether libvirt has the name, also for features that are not CPUID bits and so never available.
func known(name string) bool {
	return Lookup(name) != nil || strings.HasPrefix(name, "vmx-") || msrFeatures[name]
}

// msrFeatures are bits of IA32_ARCH_CAPABILITIES and IA32_CORE_CAPABILITIES.
var msrFeatures = map[string]bool{"rdctl-no": true, "ibrs-all": true, "rsba": true, "skip-l1dfl-vmentry": true, "ssb-no": true,
	"mds-no": true, "pschange-mc-no": true, "tsx-ctrl": true, "taa-no": true, "sbdr-ssdp-no": true, "fbsdp-no": true,
	"psdp-no": true, "fb-clear": true, "rrsba": true, "bhi-no": true, "pbrsb-no": true, "gds-no": true, "rfds-no": true,
	"rfds-clear": true, "split-lock-detect": true}

// Names returns the features whose bits are set in entries, sorted.
func Names(entries []Entry) []string {
	var out []string
	for i := range features {
		if f := &features[i]; f.in(entries) {
			out = append(out, f.Name)
		}
	}
	sort.Strings(out)
	return out
}

func (f *Feature) in(l leaves) bool {
	return l.value(f.Function, f.Index, f.Register)>>f.Bit&1 != 0
}

func (f *Feature) setIn(l *leaves, on bool) {
	if !on {
		if e := l.get(f.Function, f.Index); e != nil {
			*e.reg(f.Register) &^= 1 << f.Bit
		}
		return
	}
	*l.make(f.Function, f.Index).reg(f.Register) |= 1 << f.Bit
}
