package domain

import (
	"encoding/xml"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"

	"virtd/virterr"
)

const small = `<domain type='kvm'><name>a</name><uuid>11111111-2222-4333-8444-555555555555</uuid>
	<memory unit='MiB'>512</memory><currentMemory unit='MiB'>256</currentMemory><vcpu current='2'>4</vcpu>
	<os><type machine='q35'>hvm</type></os>
	<devices><interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface>
	<serial type='pty'/></devices></domain>`

func parse(t testing.TB, text string) *Definition {
	t.Helper()
	d, err := Parse(text, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// lines returns the lines that a and b do not share, with - and +.
func lines(a, b string) string {
	in := func(s string) map[string]bool {
		m := map[string]bool{}
		for _, l := range strings.Split(s, "\n") {
			m[strings.TrimSpace(l)] = true
		}
		return m
	}
	var out []string
	for _, l := range strings.Split(a, "\n") {
		if l = strings.TrimSpace(l); !in(b)[l] {
			out = append(out, "-"+l)
		}
	}
	for _, l := range strings.Split(b, "\n") {
		if l = strings.TrimSpace(l); !in(a)[l] {
			out = append(out, "+"+l)
		}
	}
	return strings.Join(out, "\n")
}

func TestEdits(t *testing.T) {
	type edit func(*Definition) (*Definition, error)
	tests := []struct {
		name string
		edit edit
		want string // the lines that change
	}{
		{"memory", func(d *Definition) (*Definition, error) { return d.SetMemory(1000) },
			"-<currentMemory unit='KiB'>262144</currentMemory>\n+<currentMemory unit='KiB'>1000</currentMemory>"},
		{"more memory", func(d *Definition) (*Definition, error) { return d.SetMaxMemory(1 << 20) },
			"-<memory unit='KiB'>524288</memory>\n+<memory unit='KiB'>1048576</memory>"},
		{"less memory", func(d *Definition) (*Definition, error) { return d.SetMaxMemory(2048) },
			"-<memory unit='KiB'>524288</memory>\n-<currentMemory unit='KiB'>262144</currentMemory>\n" +
				"+<memory unit='KiB'>2048</memory>\n+<currentMemory unit='KiB'>2048</currentMemory>"},
		{"vcpus", func(d *Definition) (*Definition, error) { return d.SetVCPUs(3, false) },
			"-<vcpu placement='static' current='2'>4</vcpu>\n+<vcpu placement='static' current='3'>4</vcpu>"},
		{"all vcpus", func(d *Definition) (*Definition, error) { return d.SetVCPUs(4, false) },
			"-<vcpu placement='static' current='2'>4</vcpu>\n+<vcpu placement='static'>4</vcpu>"},
		{"most vcpus", func(d *Definition) (*Definition, error) { return d.SetMaxVCPUs(64) },
			"-<vcpu placement='static' current='2'>4</vcpu>\n+<vcpu placement='static' current='2'>64</vcpu>"},
		{"least vcpus", func(d *Definition) (*Definition, error) { return d.SetMaxVCPUs(1) },
			"-<vcpu placement='static' current='2'>4</vcpu>\n+<vcpu placement='static'>1</vcpu>"},
		{"stats", func(d *Definition) (*Definition, error) { return d.SetMemoryStatsPeriod(7) }, "+<stats period='7'/>"},
		{"deflate", func(d *Definition) (*Definition, error) { return d.SetAutodeflate(true) },
			"-<memballoon model='virtio'>\n+<memballoon model='virtio' autodeflate='on'>"},
		{"reporting", func(d *Definition) (*Definition, error) { return d.SetFreePageReporting(true) },
			"-<memballoon model='virtio'>\n+<memballoon model='virtio' freePageReporting='on'>"},
		{"name", func(d *Definition) (*Definition, error) { return d.SetName("b & c") }, "-<name>a</name>\n+<name>b &amp; c</name>"},
		{"title", func(d *Definition) (*Definition, error) { return d.SetTitle("It's") }, "+<title>It&apos;s</title>"},
		{"description", func(d *Definition) (*Definition, error) { return d.SetDescription(" x ") }, "+<description> x </description>"},
		{"link", func(d *Definition) (*Definition, error) { return d.SetLinkState("52:54:0:0:0:1", false) }, "+<link state='down'/>"},
		{"pin of the others", func(d *Definition) (*Definition, error) { return d.SetEmulatorPin("1") },
			"+<cputune>\n+<emulatorpin cpuset='1'/>\n+</cputune>"},
		{"pin", func(d *Definition) (*Definition, error) { return d.SetVCPUPin(3, "0-1") },
			"+<cputune>\n+<vcpupin vcpu='3' cpuset='0-1'/>\n+</cputune>"},
		{"metadata", func(d *Definition) (*Definition, error) { return d.SetMetadata("<x a='1'><y/></x>", "k", "http://u") },
			"+<metadata>\n+<k:x xmlns:k=\"http://u\" a=\"1\">\n+<k:y/>\n+</k:x>\n+</metadata>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := parse(t, small)
			text := before.XML(0)
			after, err := tt.edit(before)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, lines(text, after.XML(0))); diff != "" {
				t.Error(diff)
			}
			if before.XML(0) != text {
				t.Error("the edited definition changed")
			}
			if again := parse(t, after.XML(0)); again.XML(0) != after.XML(0) {
				t.Error("not a fixed point")
			}
			if after.View().Name != after.Name() {
				t.Error("the view is stale")
			}
		})
	}
}

func TestEditErrors(t *testing.T) {
	d := parse(t, small)
	bare := parse(t, strings.Replace(small, "<devices>", "<devices><memballoon model='none'/>", 1))
	tests := []struct {
		name string
		edit func() (*Definition, error)
		code virterr.Code
	}{
		{"memory above maximum", func() (*Definition, error) { return d.SetMemory(600 << 10) }, virterr.InvalidArg},
		{"no memory", func() (*Definition, error) { return d.SetMemory(0) }, virterr.InvalidArg},
		{"no maximum", func() (*Definition, error) { return d.SetMaxMemory(0) }, virterr.InvalidArg},
		{"vcpus above maximum", func() (*Definition, error) { return d.SetVCPUs(5, false) }, virterr.InvalidArg},
		{"65 vcpus", func() (*Definition, error) { return d.SetMaxVCPUs(65) }, virterr.InvalidArg},
		{"no balloon", func() (*Definition, error) { return bare.SetMemoryStatsPeriod(1) }, virterr.OperationInvalid},
		{"name with slash", func() (*Definition, error) { return d.SetName("a/b") }, virterr.XMLError},
		{"title of two lines", func() (*Definition, error) { return d.SetTitle("a\nb") }, virterr.XMLError},
		{"metadata without key", func() (*Definition, error) { return d.SetMetadata("<x/>", "", "u") }, virterr.InvalidArg},
		{"metadata without uri", func() (*Definition, error) { return d.SetMetadata("<x/>", "k", "") }, virterr.InvalidArg},
		{"metadata not XML", func() (*Definition, error) { return d.SetMetadata("<x>", "k", "u") }, virterr.XMLError},
		{"metadata key not a name", func() (*Definition, error) { return d.SetMetadata("<x/>", "a b", "u") }, virterr.InvalidArg},
		{"other interface", func() (*Definition, error) { return d.SetLinkState("52:54:00:00:00:09", true) }, virterr.DeviceMissing},
		{"not a mac", func() (*Definition, error) { return d.SetLinkState("net0", true) }, virterr.InvalidArg},
		{"vcpu out of range", func() (*Definition, error) { return d.SetVCPUPin(4, "0") }, virterr.InvalidArg},
		{"pin to nonsense", func() (*Definition, error) { return d.SetVCPUPin(0, "x") }, virterr.XMLError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := tt.edit(); !virterr.Is(err, tt.code) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	d := parse(t, `<domain type='kvm' xmlns:out='http://out'><name>a</name><memory>4096</memory><os><type>hvm</type></os>
		<metadata><out:a><out:b out:c='1'/></out:a><p xmlns='http://p'><q/></p></metadata></domain>`)
	for uri, want := range map[string]string{
		"http://out": "<a xmlns:out=\"http://out\">\n  <b out:c=\"1\"/>\n</a>",
		"http://p":   "<p>\n  <q/>\n</p>",
	} {
		got, err := d.Metadata(uri)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", uri, got, err)
		}
		if err := xml.Unmarshal([]byte(got), new(struct{})); err != nil {
			t.Error(err)
		}
	}
	if _, err := d.Metadata("http://none"); !virterr.Is(err, virterr.NoDomainMetadata) {
		t.Errorf("got %v", err)
	}
	replaced, err := d.SetMetadata("<n/>", "k", "http://out")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := replaced.Metadata("http://out"); got != "<n/>" {
		t.Errorf("got %q", got)
	}
	for _, uri := range []string{"http://out", "http://p", "http://p"} {
		if replaced, err = replaced.SetMetadata("", "", uri); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(replaced.XML(0), "metadata") {
		t.Error("an empty <metadata> is left")
	}
}

// What define assigns has the form libvirt gives it, and differs between domains.
func TestAssigned(t *testing.T) {
	text := `<domain type='kvm'><name>a</name><memory>4096</memory><os><type>hvm</type></os>
		<devices><interface type='ethernet'/><interface type='ethernet'/></devices></domain>`
	a, b := parse(t, text), parse(t, text)
	if a.UUID() == b.UUID() || a.UUID().Version() != 4 {
		t.Errorf("uuids %v %v", a.UUID(), b.UUID())
	}
	macs := map[string]bool{}
	for _, d := range []*Definition{a, b} {
		for _, nic := range d.View().Devices.Interfaces {
			if !regexp.MustCompile(`^52:54:00(:[0-9a-f]{2}){3}$`).MatchString(nic.MAC.Address) || macs[nic.MAC.Address] {
				t.Errorf("mac %s", nic.MAC.Address)
			}
			macs[nic.MAC.Address] = true
		}
	}
}

func TestXMLFlags(t *testing.T) {
	inactive := parse(t, small)
	live := start(t, inactive)
	if live.ID() != 3 || inactive.ID() != -1 {
		t.Errorf("ids %d %d", live.ID(), inactive.ID())
	}
	for _, word := range []string{"id='3'", "<alias name='net0'/>", "<target dev='vnet", "<driver name='vhost'/>", "tty='/dev/pts/0'"} {
		if !strings.Contains(live.XML(0), word) {
			t.Errorf("live XML lacks %s", word)
		}
	}
	for _, flags := range []XMLFlags{XMLInactive, XMLInactive | XMLSecure, XMLMigratable, XMLMigratable | XMLUpdateCPU} {
		got := strings.Replace(live.XML(flags), "      <driver name='vhost'/>\n", "", 1)
		if diff := cmp.Diff(inactive.XML(0), got); diff != "" {
			t.Errorf("flags %d: %s", flags, diff)
		}
	}
}

// Passwords are printed only when asked for; on disk they are kept.
func TestSecrets(t *testing.T) {
	d, err := Parse(strings.Replace(small, "<devices>", "<devices><graphics type='vnc' passwd='secret'/>", 1), Options{Stored: true})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(d.XML(0), "secret") || !strings.Contains(d.XML(XMLSecure), "passwd='secret'") {
		t.Error(d.XML(0))
	}
}

func TestTypedView(t *testing.T) {
	d := parse(t, small)
	var want libvirtxml.Domain
	if err := want.Unmarshal(d.XML(XMLSecure)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, d.View()); diff != "" {
		t.Error(diff)
	}
	if d.Memory() != 512<<10 || d.CurrentMemory() != 256<<10 || d.VCPUs() != 4 || d.CurrentVCPUs() != 2 || d.OSType() != "hvm" || !d.IsQ35() {
		t.Errorf("%+v", d)
	}
}

func TestCanonicalMachine(t *testing.T) {
	tests := []struct {
		name, want string
		ok         bool
	}{
		{"", MachinePC, true}, {"pc", MachinePC, true}, {"q35", MachineQ35, true}, {"pc-q35-2.4", MachineQ35, true},
		{"pc-i440fx-jammy", MachinePC, true}, {"pc-q35-rhel9.6.0", MachineQ35, true}, {MachineQ35, MachineQ35, true},
		{"pc-q35-virtd-2.0", "pc-q35-virtd-2.0", false}, {"microvm", "microvm", false}, {"isapc", "isapc", false}, {"pc-q35-", "pc-q35-", false},
		{"pc-0.14", "pc-0.14", false}, {"pc-q35-7.2'", "pc-q35-7.2'", false},
	}
	for _, tt := range tests {
		if got, ok := CanonicalMachine(tt.name); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %q, %v", tt.name, got, ok)
		}
	}
}

func TestParseSize(t *testing.T) {
	tests := []struct {
		number, unit string
		want         uint64
	}{
		{"1", "", 1024}, {"1", "b", 1}, {"2", "bytes", 2}, {"1", "k", 1024}, {"1", "KB", 1000}, {"1", "kib", 1024}, {" 3 ", "M", 3 << 20},
		{"3", "MB", 3e6}, {"1", "GiB", 1 << 30}, {"1", "gb", 1e9}, {"1", "T", 1 << 40}, {"1", "TB", 1e12}, {"1", "PiB", 1 << 50}, {"15", "EiB", 15 << 60},
	}
	for _, tt := range tests {
		if got, err := ParseSize(tt.number, tt.unit); err != nil || got != tt.want {
			t.Errorf("%s %s: %d, %v", tt.number, tt.unit, got, err)
		}
	}
	for _, bad := range [][2]string{{"16", "EiB"}, {"-1", "b"}, {"", "b"}, {"1.5", "GiB"}, {"1", "XB"}, {"1", "KIBI"}, {"99999999999999999999", "b"}} {
		if got, err := ParseSize(bad[0], bad[1]); err == nil {
			t.Errorf("%v is %d", bad, got)
		}
	}
}

func TestParseCPUSet(t *testing.T) {
	for text, want := range map[string][]int{
		"0": {0}, "0-3": {0, 1, 2, 3}, "0-3,^2": {0, 1, 3}, "1,1,1": {1}, " 4 , 2 ": {2, 4}, "4095": {4095},
	} {
		if got, err := ParseCPUSet(text); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "x", "3-1", "4096", "0-99999999999", "^0", "0,^0", "-1", "1-", "^0-3", "0,,1"} {
		if got, err := ParseCPUSet(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// Every word of the vocabulary is well-formed: no duplicates, no empty names, enumerations with at least one value.
func TestVocabulary(t *testing.T) {
	count := 0
	var walk func(w *word, path string)
	walk = func(w *word, path string) {
		count++
		seen := map[string]bool{}
		for _, a := range w.attrs {
			if a.name == "" || seen["@"+a.name] {
				t.Errorf("%s: attribute %q", path, a.name)
			}
			seen["@"+a.name] = true
		}
		for _, c := range w.children {
			if c.name == "" || seen[c.name] {
				t.Errorf("%s: element %q", path, c.name)
			}
			seen[c.name] = true
			walk(c, path+"/"+c.name)
		}
	}
	walk(vocabulary(), "domain")
	if count < 250 {
		t.Errorf("only %d words", count)
	}
	for _, bad := range []string{"a\n    b\n", "a\n  (nothing)\n", "a\nb\n"} {
		if _, err := parseSchema(bad); err == nil {
			t.Errorf("schema %q accepted", bad)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	text := documents(b, "domain")["whole-server"]
	for b.Loop() {
		if _, err := Parse(text, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
