package cpuid

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// hosts are recorded ones and synthetic ones made of a model and what KVM adds.
func hosts(t testing.TB) map[string][]Entry {
	t.Helper()
	out := map[string][]Entry{
		"synthetic-intel": synthetic(Intel, "SapphireRapids", "vmx", "invtsc", "pdcm", "arch-capabilities"),
		"synthetic-amd":   synthetic(AMD, "EPYC-Milan", "invtsc", "topoext", "cmp_legacy"),
		"synthetic-old":   synthetic(Intel, "Nehalem", "vmx"),
	}
	files, err := filepath.Glob("testdata/hosts/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded hosts: %v", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var entries []Entry
		if err := json.Unmarshal(b, &entries); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".json")] = entries
	}
	return out
}

func synthetic(vendor, model string, extra ...string) []Entry {
	m := LookupModel(model)
	var l leaves
	setVendor(&l, vendor)
	l.set(1, 0, m.signature(vendor), 0x00100800, 0, 0)
	for _, name := range append(slices.Clone(m.features), extra...) {
		if name != "tsc-deadline" { // KVM does not list it
			setFeature(&l, name, true)
		}
	}
	l.make(0x80000007, 0)
	l.make(0x80000008, 0).EAX = 0x302e
	cacheLeaves(&l, vendor == AMD)
	if vendor == AMD {
		l.set(0x8000001e, 0, 0, 0, 0, 0)
	} else {
		l.set(0xa, 0, 0x07300402, 0, 0, 0x603)
		l.set(0xb, 0, 1, 2, 0x100, 7)
		l.set(0xb, 1, 7, 112, 0x201, 7)
	}
	if Lookup("xsave").in(l) {
		l.set(0xd, 0, 0x2e7, 0x240, 0xa88, 0)
		one := l.make(0xd, 1)
		one.ECX = 0x1800
		l.set(0xd, 2, 0x100, 0x240, 0, 0)
		l.set(0xd, 5, 0x40, 0x440, 0, 0)
		l.set(0xd, 6, 0x200, 0x480, 0, 0)
		l.set(0xd, 7, 0x400, 0x680, 0, 0)
		l.set(0xd, 9, 8, 0xa80, 0, 0)
		l.set(0xd, 11, 0x10, 0, 1, 0)
	}
	l.set(kvmSignature, 0, kvmFeatures, 0x4b4d564b, 0x564b4d56, 0x4d)
	l.set(kvmFeatures, 0, 0x01017efb, 0, 0, 0)
	l.set(0xc0000000, 0, 0xc0000004, 0, 0, 0)
	l.sort()
	return l
}

func show(entries []Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%08x.%02x %08x %08x %08x %08x\n", e.Function, e.Index, e.EAX, e.EBX, e.ECX, e.EDX)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	specs := map[string]Spec{
		"passthrough": {Count: 1, Mode: HostPassthrough},
		"topology":    {Count: 12, Mode: HostPassthrough, Topology: Topology{Sockets: 2, Dies: 1, Cores: 3, Threads: 2}},
		"default":     {Count: 4, Mode: Custom, Model: DefaultModel, Features: defaultPolicies()},
		"nehalem":     {Count: 2, Mode: Custom, Model: "Nehalem", KVMHidden: true},
		"epyc-rome":   {Count: 8, Mode: Custom, Model: "EPYC-Rome", Topology: Topology{Sockets: 1, Cores: 4, Threads: 2}, Features: map[string]Policy{"topoext": Optional}},
	}
	for host, supported := range hosts(t) {
		for name, s := range specs {
			var got string
			if g, err := New(supported, s); err != nil {
				got = "error: " + err.Error() + "\n"
			} else {
				got = show(g.VCPU(0))
				if s.Count > 1 {
					got += fmt.Sprintf("last vCPU differs:\n%s", difference(g.VCPU(0), g.VCPU(s.Count-1)))
				}
			}
			path := filepath.Join("testdata", "guests", host+"-"+name+".txt")
			if *update {
				os.MkdirAll(filepath.Dir(path), 0o755)
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("%s on %s (-want +got):\n%s", name, host, d)
			}
		}
	}
}

func defaultPolicies() map[string]Policy {
	p := map[string]Policy{}
	for _, f := range DefaultFeatures() {
		p[f] = Require
	}
	return p
}

func difference(a, b []Entry) string {
	var out []Entry
	for i := range b {
		if a[i] != b[i] {
			out = append(out, b[i])
		}
	}
	return show(out)
}

func TestWhatGuestsNeedToBoot(t *testing.T) {
	for host, supported := range hosts(t) {
		g, err := New(supported, Spec{Count: 1, Mode: HostPassthrough})
		if err != nil {
			t.Fatal(err)
		}
		l := leaves(g.VCPU(0))
		for _, name := range []string{"hypervisor", "tsc-deadline", "x2apic", "apic", "lm", "nx"} {
			if !Lookup(name).in(l) {
				t.Errorf("%s: no %s", host, name)
			}
		}
		for _, name := range []string{"osxsave", "invtsc"} {
			if Lookup(name).in(l) {
				t.Errorf("%s: %s is on", host, name)
			}
		}
		if l.value(kvmSignature, 0, EBX) != 0x4b4d564b || l.value(kvmFeatures, 0, EAX)&(1<<3|1<<24) != 1<<3|1<<24 {
			t.Errorf("%s: KVM leaves %#x", host, l.value(kvmFeatures, 0, EAX))
		}
		if len(l) > 80 {
			t.Errorf("%s: %d entries, and Linux 5.10 takes 80", host, len(l))
		}
		if l.get(0xc0000000, 0) != nil || l.value(0, 0, EAX) < 0xb {
			t.Errorf("%s: highest leaf %#x", host, l.value(0, 0, EAX))
		}
	}
}

func TestParavirtSwitches(t *testing.T) {
	supported := synthetic(AMD, "EPYC-Milan")
	features := func(s Spec) uint32 {
		s.Count, s.Mode = 1, HostPassthrough
		g, err := New(supported, s)
		if err != nil {
			t.Fatal(err)
		}
		return leaves(g.VCPU(0)).value(kvmFeatures, 0, EAX)
	}
	all := features(Spec{})
	if all&^offered() != 0 || all&(1<<16) != 0 {
		t.Errorf("offers %#x", all)
	}
	for _, p := range paravirt {
		if got := features(Spec{Paravirt: map[string]bool{p.name: false}}); got != all&^p.bits {
			t.Errorf("%s off: %#x, all %#x", p.name, got, all)
		}
		if got := features(Spec{Paravirt: map[string]bool{p.name: true}}); got != all {
			t.Errorf("%s on: %#x, all %#x", p.name, got, all)
		}
	}
	if got := features(Spec{NoKVMClock: true}); got&(1<<0|1<<3|1<<24) != 0 {
		t.Errorf("without kvmclock: %#x", got)
	}
	g, err := New(supported, Spec{Count: 1, Mode: HostPassthrough, KVMHidden: true})
	if err != nil {
		t.Fatal(err)
	}
	if l := leaves(g.VCPU(0)); l.get(kvmSignature, 0) != nil || !Lookup("hypervisor").in(l) {
		t.Error("hidden KVM shows its signature, or the hypervisor bit is gone")
	}
}

func TestPolicies(t *testing.T) {
	amd := synthetic(AMD, "EPYC-Milan")
	for _, c := range []struct {
		name     string
		mode     Mode
		model    string
		features map[string]Policy
		want     string // error
		on, off  []string
	}{
		{"require what is there", HostPassthrough, "", map[string]Policy{"avx2": Require}, "", []string{"avx2"}, nil},
		{"require what is not", HostPassthrough, "", map[string]Policy{"avx512f": Require, "rtm": Require}, "does not provide required features: avx512f, rtm", nil, nil},
		{"force what is not", HostPassthrough, "", map[string]Policy{"hle": Force}, "", []string{"hle"}, nil},
		{"optional, not there", HostPassthrough, "", map[string]Policy{"hle": Optional}, "", nil, []string{"hle"}},
		{"disable", HostPassthrough, "", map[string]Policy{"svm": Disable, "sse4_1": Disable}, "", nil, []string{"svm", "sse4.1"}},
		{"forbid what is there", HostPassthrough, "", map[string]Policy{"svm": Forbid}, "provides forbidden features: svm", nil, nil},
		{"forbid what is not", HostPassthrough, "", map[string]Policy{"rtm": Forbid}, "", nil, []string{"rtm"}},
		{"typo", HostPassthrough, "", map[string]Policy{"avx3": Require}, `unknown CPU feature "avx3"`, nil, nil},
		{"policy typo", HostPassthrough, "", map[string]Policy{"avx2": "maybe"}, "unknown policy", nil, nil},
		{"disable a VMX capability", HostPassthrough, "", map[string]Policy{"vmx-ept": Disable, "mds-no": Optional}, "", nil, nil},
		{"require an MSR bit", HostPassthrough, "", map[string]Policy{"mds-no": Require}, "mds-no", nil, nil},
		{"model beyond the host", Custom, "EPYC-Genoa", nil, "does not provide required features: amd-psfd, auto-ibrs", nil, nil},
		{"model less what is missing", Custom, "Cascadelake-Server-noTSX", map[string]Policy{"avx512bw": Disable, "avx512cd": Disable,
			"avx512dq": Disable, "avx512f": Disable, "avx512vl": Disable, "avx512vnni": Disable, "spec-ctrl": Disable, "ssbd": Disable}, "",
			[]string{"avx2"}, []string{"avx512f"}},
		{"model plus", Custom, "Nehalem", map[string]Policy{"aes": Require}, "", []string{"aes", "sse4.2", "x2apic"}, []string{"avx", "svm", "xsave"}},
		{"unknown model", Custom, "Itanium", nil, `unknown CPU model "Itanium"`, nil, nil},
		{"unknown mode", "host-modal", "", nil, "unknown CPU mode", nil, nil},
	} {
		g, err := New(amd, Spec{Count: 1, Mode: c.mode, Model: c.model, Features: c.features})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		l := leaves(g.VCPU(0))
		for _, n := range c.on {
			if !Lookup(n).in(l) {
				t.Errorf("%s: %s is off", c.name, n)
			}
		}
		for _, n := range c.off {
			if Lookup(n).in(l) {
				t.Errorf("%s: %s is on", c.name, n)
			}
		}
	}
	var incompatible *IncompatibleError
	if _, err := New(amd, Spec{Count: 1, Mode: Custom, Model: "Haswell"}); !errors.As(err, &incompatible) {
		t.Errorf("%v is no IncompatibleError", err)
	}
}

// TestCustomIsTheSameOnEveryHost: what a named model shows must not depend on which host of a vendor it runs on.
func TestCustomIsTheSameOnEveryHost(t *testing.T) {
	a, err := New(synthetic(AMD, "EPYC-Milan"), Spec{Count: 2, Mode: Custom, Model: "Opteron_G3", Features: map[string]Policy{"svm": Disable}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(synthetic(AMD, "EPYC-Genoa", "topoext"), Spec{Count: 2, Mode: Custom, Model: "Opteron_G3", Features: map[string]Policy{"svm": Disable}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(show(a.VCPU(1)), show(b.VCPU(1))); d != "" {
		t.Errorf("differs:\n%s", d)
	}
}

func TestUsable(t *testing.T) {
	amd := synthetic(AMD, "EPYC-Milan")
	for _, c := range []struct {
		model   string
		ok      bool
		missing string
	}{
		{"EPYC-Milan", true, ""}, {"EPYC-Rome", true, ""}, {"EPYC", true, ""}, {"qemu64", true, ""}, {"kvm64", true, ""},
		{"SandyBridge", true, ""}, {"Haswell", false, "hle rtm"}, {"Opteron_G5", false, "fma4 tbm xop"},
	} {
		ok, missing, err := Usable(amd, c.model)
		if err != nil || ok != c.ok || strings.Join(missing, " ") != c.missing {
			t.Errorf("%s: %v, missing %v, %v", c.model, ok, missing, err)
		}
	}
	if _, _, err := Usable(amd, "nonsense"); err == nil {
		t.Error("unknown model accepted")
	}
	// The default must run wherever the lab and the development machines are real enough to run Linux.
	for name, supported := range hosts(t) {
		if ok, missing, _ := Usable(supported, DefaultModel); !ok && name != "pvm-host" {
			t.Errorf("%s cannot provide the default model: %v", name, missing)
		}
	}
}

func TestHostModel(t *testing.T) {
	for _, m := range Models() {
		if m.Vendor == "" || strings.HasPrefix(m.Name, "Conroe") {
			continue
		}
		h := HostModel(synthetic(m.Vendor, m.Name))
		if h.Model != m.Name && len(h.Disabled)+len(h.Required) > 3 {
			t.Errorf("a host made of %s is described as %s, required %v, disabled %v", m.Name, h.Model, h.Required, h.Disabled)
		}
	}
	for name, supported := range hosts(t) {
		h := HostModel(supported)
		if _, err := New(supported, Spec{Count: 1, Mode: Custom, Model: h.Model, Features: h.Policies()}); err != nil {
			t.Errorf("%s: the host cannot run its own host-model: %v", name, err)
		}
		t.Logf("%s: %s, required %v, disabled %v", name, h.Model, h.Required, h.Disabled)
	}
}

func TestFeatureTable(t *testing.T) {
	for name, want := range map[string]Feature{
		"fpu": {"fpu", 1, 0, EDX, 0}, "pbe": {"pbe", 1, 0, EDX, 31}, "hypervisor": {"hypervisor", 1, 0, ECX, 31}, "pcid": {"pcid", 1, 0, ECX, 17},
		"avx512vl": {"avx512vl", 7, 0, EBX, 31}, "avx512f": {"avx512f", 7, 0, EBX, 16}, "sha-ni": {"sha-ni", 7, 0, EBX, 29},
		"rdpid": {"rdpid", 7, 0, ECX, 22}, "ssbd": {"ssbd", 7, 0, EDX, 31}, "fsrm": {"fsrm", 7, 0, EDX, 4}, "serialize": {"serialize", 7, 0, EDX, 14},
		"xsaves": {"xsaves", 0xd, 1, EAX, 3}, "lm": {"lm", 0x80000001, 0, EDX, 29}, "3dnow": {"3dnow", 0x80000001, 0, EDX, 31},
		"topoext": {"topoext", 0x80000001, 0, ECX, 22}, "perfctr_core": {"perfctr_core", 0x80000001, 0, ECX, 23},
		"invtsc": {"invtsc", 0x80000007, 0, EDX, 8}, "ibpb": {"ibpb", 0x80000008, 0, EBX, 12}, "amd-ssbd": {"amd-ssbd", 0x80000008, 0, EBX, 24},
		"vgif": {"vgif", 0x8000000a, 0, EDX, 16}, "auto-ibrs": {"auto-ibrs", 0x80000021, 0, EAX, 8}, "srso-no": {"srso-no", 0x80000021, 0, EAX, 29},
		"avx512-bf16": {"avx512-bf16", 7, 1, EAX, 5}, "amx-fp16": {"amx-fp16", 7, 1, EAX, 21}, "bhi-ctrl": {"bhi-ctrl", 7, 2, EDX, 4},
		"avx512-vpopcntdq": {"avx512-vpopcntdq", 7, 0, ECX, 14}, "amx-bf16": {"amx-bf16", 7, 0, EDX, 22}, "spec-ctrl": {"spec-ctrl", 7, 0, EDX, 26},
		"sse4_2": {"sse4.2", 1, 0, ECX, 20},
	} {
		if f := Lookup(name); f == nil || *f != want {
			t.Errorf("%s: %+v", name, f)
		}
	}
	seen := map[Feature]string{}
	for _, f := range Features() {
		if Lookup(f.Name) == nil || *Lookup(f.Name) != f {
			t.Errorf("%s is listed twice", f.Name)
		}
		key := f
		key.Name = ""
		if seen[key] != "" {
			t.Errorf("%s and %s are the same bit", f.Name, seen[key])
		}
		seen[key] = f.Name
	}
	for _, m := range Models() {
		for _, f := range m.Features() {
			if Lookup(f) == nil {
				t.Errorf("model %s has unknown feature %q", m.Name, f)
			}
		}
		if got, model := familyModel(m.signature(m.Vendor)); m.Vendor != "" && (got != m.Family || model != m.Model) {
			t.Errorf("%s: signature %#x decodes to family %d model %d", m.Name, m.signature(m.Vendor), got, model)
		}
	}
}

func TestTopology(t *testing.T) {
	for _, bad := range []struct {
		t     Topology
		count int
	}{{Topology{Sockets: 2}, 3}, {Topology{Sockets: -1, Cores: -3}, 3}, {Topology{Threads: 1 << 40}, 1}} {
		if _, err := bad.t.Normalize(bad.count); err == nil {
			t.Errorf("%+v for %d CPUs accepted", bad.t, bad.count)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		level := rapid.IntRange(1, 5)
		top := Topology{level.Draw(t, "sockets"), level.Draw(t, "dies"), level.Draw(t, "clusters"), level.Draw(t, "cores"), rapid.IntRange(1, 2).Draw(t, "threads")}
		seen := map[uint32]bool{}
		for i := range top.Count() {
			id := top.APICID(i)
			if seen[id] {
				t.Fatalf("%+v: two CPUs have APIC id %d", top, id)
			}
			seen[id] = true
			socket, die, core, thread := top.place(i)
			if int(id>>top.socketShift()) != socket || int(id)>>top.dieShift()&(1<<width(top.Dies)-1) != die ||
				int(id)&(1<<top.threadBits()-1) != thread || int(id)>>top.threadBits()&(1<<width(top.coresOfDie())-1) != core {
				t.Fatalf("%+v: APIC id %#x of CPU %d does not decode", top, id, i)
			}
		}
	})
}

// TestHostBrand only checks that reading it works: what it says is the machine's.
func TestHostBrand(t *testing.T) {
	if b := HostBrand(); len(b) > 48 {
		t.Errorf("brand %q", b)
	}
	g, err := New(synthetic(AMD, "EPYC"), Spec{Count: 1, Mode: HostPassthrough, Brand: "A brand"})
	if err != nil || leaves(g.VCPU(0)).value(0x80000002, 0, EAX) != 0x72622041 {
		t.Errorf("brand not shown: %v", err)
	}
}
