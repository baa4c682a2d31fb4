package cpuid

import (
	"fmt"
	"slices"
	"strings"
)

// Model is a named processor with the features that a guest gets from its name alone.
type Model struct {
	Name                    string
	Vendor                  string // of the real processor, empty for synthetic ones. A guest gets the host's
	Family, Model, Stepping int    // of the real processor; synthetic ones have none of their own
	features                []string
}

// Features returns the names of the model's features. The caller must not change the slice.
func (m *Model) Features() []string { return m.features }

// definition builds a model on another: features are added, those with a minus are taken away.
type definition struct {
	name, base              string
	vendor                  string
	family, model, stepping int
	change                  string
}

// definitions have the features that libvirt gives a model of the name, without what is no CPUID bit and without MPX,
// which Linux no longer offers. Order: a base comes before what builds on it, and for equally good matches HostModel
// prefers the later.
var definitions = []definition{
	{"kvm64", "", "", 0, 0, 0, "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni cx16 syscall nx lm"},
	{"qemu64", "kvm64", "", 0, 0, 0, "svm"},
	{"Conroe", "kvm64", Intel, 6, 15, 3, "-cx16 ssse3 lahf_lm"},
	{"Penryn", "kvm64", Intel, 6, 23, 3, "ssse3 lahf_lm sse4.1"},
	{"Nehalem", "Penryn", Intel, 6, 26, 3, "sse4.2 popcnt"},
	{"Nehalem-IBRS", "Nehalem", Intel, 6, 26, 3, "spec-ctrl"},
	{"Westmere", "Nehalem", Intel, 6, 44, 1, "aes"},
	{"Westmere-IBRS", "Westmere", Intel, 6, 44, 1, "spec-ctrl"},
	{"SandyBridge", "Westmere", Intel, 6, 42, 1, "avx pclmuldq rdtscp tsc-deadline x2apic xsave"},
	{"SandyBridge-IBRS", "SandyBridge", Intel, 6, 42, 1, "spec-ctrl"},
	{"IvyBridge", "SandyBridge", Intel, 6, 58, 9, "erms f16c fsgsbase rdrand smep vme"},
	{"IvyBridge-IBRS", "IvyBridge", Intel, 6, 58, 9, "spec-ctrl"},
	{"Haswell-noTSX", "SandyBridge", Intel, 6, 60, 1, "avx2 bmi1 bmi2 erms fma fsgsbase invpcid movbe pcid smep"},
	{"Haswell-noTSX-IBRS", "Haswell-noTSX", Intel, 6, 60, 1, "spec-ctrl"},
	{"Haswell", "Haswell-noTSX", Intel, 6, 60, 4, "hle rtm"},
	{"Haswell-IBRS", "Haswell", Intel, 6, 60, 4, "spec-ctrl"},
	{"Broadwell-noTSX", "Haswell-noTSX", Intel, 6, 61, 2, "3dnowprefetch adx rdseed smap"},
	{"Broadwell-noTSX-IBRS", "Broadwell-noTSX", Intel, 6, 61, 2, "spec-ctrl"},
	{"Broadwell", "Broadwell-noTSX", Intel, 6, 61, 2, "hle rtm"},
	{"Broadwell-IBRS", "Broadwell", Intel, 6, 61, 2, "spec-ctrl"},
	{"Skylake-Client-noTSX-IBRS", "Broadwell-noTSX-IBRS", Intel, 6, 94, 3, "abm arat f16c rdrand vme xgetbv1 xsavec xsaveopt"},
	{"Skylake-Client", "Skylake-Client-noTSX-IBRS", Intel, 6, 94, 3, "hle rtm -spec-ctrl"},
	{"Skylake-Client-IBRS", "Skylake-Client", Intel, 6, 94, 3, "spec-ctrl"},
	{"Skylake-Server-noTSX-IBRS", "Skylake-Client-noTSX-IBRS", Intel, 6, 85, 4, "avx512bw avx512cd avx512dq avx512f avx512vl clwb pdpe1gb"},
	{"Skylake-Server", "Skylake-Server-noTSX-IBRS", Intel, 6, 85, 4, "hle rtm -spec-ctrl"},
	{"Skylake-Server-IBRS", "Skylake-Server", Intel, 6, 85, 4, "spec-ctrl"},
	{"Cascadelake-Server-noTSX", "Skylake-Server-noTSX-IBRS", Intel, 6, 85, 6, "avx512vnni clflushopt ssbd"},
	{"Cascadelake-Server", "Cascadelake-Server-noTSX", Intel, 6, 85, 6, "hle rtm"},
	{"Cooperlake", "Cascadelake-Server", Intel, 6, 85, 10, "avx512-bf16 pku stibp arch-capabilities"},
	{"Icelake-Server-noTSX", "Cascadelake-Server-noTSX", Intel, 6, 106, 6, "avx512-vpopcntdq avx512bitalg avx512vbmi avx512vbmi2 gfni la57 pku umip vaes vpclmulqdq wbnoinvd"},
	{"Icelake-Server", "Icelake-Server-noTSX", Intel, 6, 106, 6, "hle rtm"},
	{"SapphireRapids", "Icelake-Server", Intel, 6, 143, 4, "amx-bf16 amx-int8 amx-tile arch-capabilities avx-vnni avx512-bf16 avx512-fp16 avx512ifma bus-lock-detect fsrc fsrm fsrs fzrm rdpid serialize sha-ni tsx-ldtrk xfd xsaves"},
	{"Opteron_G1", "kvm64", AMD, 15, 6, 1, "-cx16"},
	{"Opteron_G2", "kvm64", AMD, 15, 6, 1, "lahf_lm rdtscp svm"},
	{"Opteron_G3", "Opteron_G2", AMD, 16, 2, 3, "abm misalignsse monitor popcnt sse4a"},
	{"Opteron_G4", "Opteron_G3", AMD, 21, 1, 2, "-monitor 3dnowprefetch aes avx fma4 pclmuldq pdpe1gb sse4.1 sse4.2 ssse3 xop xsave"},
	{"Opteron_G5", "Opteron_G4", AMD, 21, 2, 0, "f16c fma tbm"},
	{"EPYC", "kvm64", AMD, 23, 1, 2, "3dnowprefetch abm adx aes arat avx avx2 bmi1 bmi2 clflushopt cr8legacy f16c fma fsgsbase fxsr_opt lahf_lm misalignsse mmxext monitor movbe osvw pclmuldq pdpe1gb popcnt rdrand rdseed rdtscp sha-ni smap smep sse4.1 sse4.2 sse4a ssse3 svm vme xgetbv1 xsave xsavec xsaveopt"},
	{"EPYC-IBPB", "EPYC", AMD, 23, 1, 2, "ibpb"},
	{"Dhyana", "EPYC-IBPB", Hygon, 24, 0, 1, "-aes -pclmuldq -sha-ni"},
	{"EPYC-Rome", "EPYC-IBPB", AMD, 23, 49, 0, "-monitor amd-stibp clwb clzero npt nrip-save perfctr_core rdpid umip wbnoinvd xsaveerptr"},
	{"EPYC-Milan", "EPYC-Rome", AMD, 25, 1, 1, "amd-ssbd erms fsrm ibrs invpcid pcid pku svme-addr-chk xsaves"},
	{"EPYC-Genoa", "EPYC-Milan", AMD, 25, 17, 0, "amd-psfd auto-ibrs avx512-bf16 avx512-vpopcntdq avx512bitalg avx512bw avx512cd avx512dq avx512f avx512ifma avx512vbmi avx512vbmi2 avx512vl avx512vnni gfni la57 lfence-always-serializing no-nested-data-bp null-sel-clr-base stibp-always-on vaes vnmi vpclmulqdq"},
}

// whenAvailable are features of models that a host may be configured without, or that only matter to nested guests: a
// guest gets them from its model only where the host has them.
var whenAvailable = map[string]bool{"svm": true, "vmx": true, "npt": true, "nrip-save": true, "svme-addr-chk": true, "vnmi": true,
	"monitor": true, "arch-capabilities": true, "perfctr_core": true}

// DefaultModel is the model of a domain without <cpu>, with DefaultFeatures added: what x86-64-v2 requires, so that
// current distributions run, and what KVM itself emulates, so that it is the same on every host.
const DefaultModel = "qemu64"

// DefaultFeatures are required beyond DefaultModel.
func DefaultFeatures() []string {
	return []string{"arat", "lahf_lm", "popcnt", "sse4.1", "sse4.2", "ssse3", "tsc-deadline", "x2apic"}
}

var models = buildModels()

func buildModels() map[string]*Model {
	out := make(map[string]*Model, len(definitions))
	for _, d := range definitions {
		m := &Model{Name: d.name, Vendor: d.vendor, Family: d.family, Model: d.model, Stepping: d.stepping}
		if d.base != "" {
			m.features = slices.Clone(out[d.base].features)
		}
		for _, name := range strings.Fields(d.change) {
			if gone, ok := strings.CutPrefix(name, "-"); ok {
				m.features = slices.DeleteFunc(m.features, func(f string) bool { return f == gone })
			} else {
				m.features = append(m.features, name)
			}
		}
		slices.Sort(m.features)
		out[d.name] = m
	}
	return out
}

// Needs returns the names of the features that a processor must have to be this model, sorted. Those that a host may be
// configured without are not among them.
func (m *Model) Needs() []string {
	return slices.DeleteFunc(slices.Clone(m.features), func(name string) bool { return whenAvailable[name] })
}

// LookupModel returns the model of a name, or nil.
func LookupModel(name string) *Model { return models[name] }

// Models returns all models in the order of their definition, oldest of a vendor first.
func Models() []*Model {
	var out []*Model
	for _, d := range definitions {
		out = append(out, models[d.name])
	}
	return out
}

// Usable reports whether a host can provide a model exactly, and if not which features it lacks.
func Usable(supported []Entry, model string) (ok bool, missing []string, err error) {
	m := models[model]
	if m == nil {
		return false, nil, fmt.Errorf("unknown CPU model %q", model)
	}
	host := hostLeaves(supported)
	for _, name := range m.features {
		if !whenAvailable[name] && !Lookup(name).in(host) {
			missing = append(missing, name)
		}
	}
	return len(missing) == 0, missing, nil
}

// signature encodes family, model and stepping for leaf 1 EAX (SDM 2A, figure 3-6). A synthetic model is the oldest
// processor of the guest's vendor that has what DefaultFeatures lists. The K8 that other hypervisors say makes Linux look
// for an AGP aperture in every slot of 256 buses, twice, and leaves out mitigations that the real processor needs.
func (m *Model) signature(vendor string) uint32 {
	family, model, stepping := m.Family, m.Model, m.Stepping
	if m.Vendor == "" {
		like := models["Nehalem"]
		if vendor != Intel {
			like = models["EPYC"]
		}
		family, model, stepping = like.Family, like.Model, like.Stepping
	}
	extended := 0
	if family > 15 {
		family, extended = 15, family-15
	}
	return uint32(extended<<20 | model>>4<<16 | family<<8 | model&0xf<<4 | stepping)
}

// brand is the processor brand string, up to 47 characters.
func (m *Model) brand() string {
	switch m.Vendor {
	case Intel:
		return "Intel Processor (" + m.Name + ")"
	case AMD, Hygon:
		return "AMD Processor (" + m.Name + ")"
	}
	return "Virtual CPU (" + m.Name + ")"
}
