package domain

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"virtd/virterr"
)

var update = flag.Bool("update", false, "write the golden files")

const testdata = "../xml/testdata/"

// documents returns the source documents of a folder of test data, by name.
func documents(t testing.TB, folder string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(testdata + folder + "/*.xml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no documents in %s: %v", folder, err)
	}
	out := map[string]string{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".xml")
		if strings.HasSuffix(name, ".golden") || strings.HasSuffix(name, ".live") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(text)
	}
	return out
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (run with -update after checking):\n%s", path, diff)
	}
}

// fakeHost is a host with a CPU of its own.
type fakeHost struct{}

func (fakeHost) HostModel() (CPUModel, error) {
	return CPUModel{Name: "Skylake-Client-IBRS", Vendor: "Intel",
		Features: []CPUFeature{{"avx512f", "require"}, {"ssbd", "require"}, {"mpx", "disable"}}}, nil
}

// fakeRuntime is what some host gave the devices of a live definition.
func fakeRuntime(d *Definition) Runtime {
	r := Runtime{Taps: map[string]string{}, NetDrivers: map[string]string{}, TTYs: map[string]string{}}
	for i, dev := range d.doc.Root.Child("devices").Elements() {
		alias := dev.Child("alias").Attr("name")
		switch {
		case IsVhostUser(dev):
		case dev.Is("interface") && dev.Attr("type") == typeUser:
			r.NetDrivers[alias] = "qemu"
		case dev.Is("interface") && dev.Child("target") == nil:
			r.Taps[alias] = fmt.Sprintf("vnet%d", i)
			if dev.Attr("type") == typeDirect {
				r.Taps[alias] = fmt.Sprintf("macvtap%d", i)
			}
			r.NetDrivers[alias] = "vhost"
		case dev.Attr("type") == "pty":
			r.TTYs[alias] = "/dev/pts/" + strings.TrimLeft(alias, "abcdefghijklmnopqrstuvwxyz")
		}
	}
	return r
}

func start(t *testing.T, d *Definition) *Definition {
	t.Helper()
	live, err := d.Start(3, fakeHost{})
	if err != nil {
		t.Fatal(err)
	}
	volumes := map[string]VolumeSource{}
	for _, v := range live.Volumes() {
		volumes[v.Alias] = VolumeSource{Path: "/pools/" + v.Pool + "/" + v.Volume, Block: v.Pool == "vg"}
	}
	if live, err = live.SetVolumes(volumes); err != nil {
		t.Fatal(err)
	}
	ports := map[string]NetworkPort{}
	for i, nic := range live.NetworkInterfaces() {
		ports[nic.Alias] = NetworkPort{UUID: fmt.Sprintf("5a1e1d1e-0000-4000-8000-%012d", i), Bridge: fmt.Sprintf("virbr%d", i)}
		if nic.Network == "pool" { // of devices
			ports[nic.Alias] = NetworkPort{UUID: ports[nic.Alias].UUID, Type: typeDirect, Dev: "eth5", Mode: "bridge"}
		}
	}
	if live, err = live.SetPorts(ports); err != nil {
		t.Fatal(err)
	}
	if live, err = live.SetRuntime(fakeRuntime(live)); err != nil {
		t.Fatal(err)
	}
	return live
}

func TestGolden(t *testing.T) {
	docs := documents(t, "domain")
	if len(docs) < 60 {
		t.Errorf("only %d documents", len(docs))
	}
	for name, text := range docs {
		t.Run(name, func(t *testing.T) {
			d, err := Parse(text, Options{})
			if err != nil {
				t.Fatal(err)
			}
			printed := d.XML(0)
			golden(t, testdata+"domain/"+name+".golden.xml", printed)
			again, err := Parse(printed, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(printed, again.XML(0)); diff != "" {
				t.Errorf("changes when defined again: %s", diff)
			}
			live := start(t, d)
			golden(t, testdata+"domain/"+name+".live.xml", live.XML(0))
			reload(t, live)
			if name == "unknown-words" {
				return
			}
			for _, text := range []string{printed, live.XML(XMLInactive | XMLSecure), live.XML(0)} {
				if _, err := Parse(text, Options{Validate: true}); err != nil {
					t.Errorf("virsh edit could not write back: %v", err)
				}
			}
		})
	}
}

// reload reads a live definition as the next virtd does, and its inactive XML as `virsh edit` does.
func reload(t *testing.T, live *Definition) {
	t.Helper()
	again, err := Parse(live.XML(XMLSecure), Options{Live: true, Stored: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(live.XML(0), again.XML(0)); diff != "" || again.ID() != 3 {
		t.Errorf("live XML changes when read again: %s", diff)
	}
	if err := live.Check(); err != nil {
		t.Errorf("live definition is refused: %v", err)
	}
	inactive := live.XML(XMLInactive)
	for _, word := range []string{"<alias name='virtio", "<alias name='net", " id='3'", "/dev/pts", "='vnet"} {
		if strings.Contains(inactive, word) {
			t.Errorf("inactive XML of a running domain has %s", word)
		}
	}
	if _, err := Parse(inactive, Options{}); err != nil {
		t.Errorf("inactive XML is refused: %v", err)
	}
}

func TestBad(t *testing.T) {
	for name, text := range documents(t, "domain-bad") {
		t.Run(name, func(t *testing.T) {
			d, err := Parse(text, Options{Validate: strings.HasPrefix(name, "validate-")})
			if err == nil {
				t.Fatalf("accepted as %s", d.XML(0))
			}
			e := virterr.As(err)
			if e.Code == virterr.InternalError {
				t.Errorf("internal error: %v", err)
			}
			golden(t, testdata+"domain-bad/"+name+".err", fmt.Sprintf("%d %v\n", e.Code, e))
		})
	}
}

// With --validate, everything that our own documents use is known.
func TestValidateAcceptsOurs(t *testing.T) {
	for name, text := range documents(t, "domain") {
		_, err := Parse(text, Options{Validate: true})
		if unknown := name == "unknown-words"; unknown != virterr.Is(err, virterr.XMLInvalidSchema) || !unknown && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// schemaTools returns the folder of libvirt's RELAX NG schemas and the command of xmllint: from VIRTD_SCHEMAS and XMLLINT,
// else from the lab's cache where the lab has been built. They come from distribution packages and are not committed.
func schemaTools(t *testing.T) (schemas string, lint []string) {
	t.Helper()
	if schemas = os.Getenv("VIRTD_SCHEMAS"); schemas != "" {
		if lint = strings.Fields(os.Getenv("XMLLINT")); len(lint) == 0 {
			lint = []string{"xmllint"}
		}
		return schemas, lint
	}
	lab := os.Getenv("LAB")
	if lab == "" {
		home, _ := os.UserHomeDir()
		lab = home + "/.cache/virtd-lab"
	}
	schemas = lab + "/root/usr/share/libvirt/schemas"
	if _, err := os.Stat(schemas + "/domain.rng"); err != nil {
		t.Skip("libvirt's schemas are not here: build the lab (lab/lab.sh build) or set VIRTD_SCHEMAS")
	}
	return schemas, []string{"../lab/lab.sh", "tool", "xmllint"}
}

// TestSchemas checks what we print with libvirt's own schemas.
func TestSchemas(t *testing.T) {
	schemas, lint := schemaTools(t)
	args := append(lint[1:], "--noout", "--relaxng", schemas+"/domain.rng")
	for name := range documents(t, "domain") {
		// The first is not libvirt's vocabulary by intent, the others are newer than the schemas of libvirt 9.0.
		if !slices.Contains([]string{"unknown-words", "cpu-topology-clusters", "hostdev-iommufd", "hostdev-iommufd-no"}, name) {
			args = append(args, testdata+"domain/"+name+".golden.xml", testdata+"domain/"+name+".live.xml")
		}
	}
	out, err := exec.Command(lint[0], args...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, strings.Join(slices.DeleteFunc(strings.Split(string(out), "\n"),
			func(l string) bool { return strings.HasSuffix(l, " validates") }), "\n"))
	}
	if n := strings.Count(string(out), " validates"); n < 120 {
		t.Errorf("only %d documents validate", n)
	}
}
