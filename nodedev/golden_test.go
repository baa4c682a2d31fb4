package nodedev

import (
	"encoding/xml"
	"flag"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"virtd/nodedev/nodedevtest"
)

var update = flag.Bool("update", false, "write the goldens in xml/testdata/nodedev")

const goldens = "../xml/testdata/nodedev"

// testConfig looks at a copy of the recorded host.
func testConfig(t testing.TB) Config {
	return Config{
		Sys: nodedevtest.Load(t, "testdata/host.tree"), PCIIDs: []string{"does/not/exist", "testdata/pci.ids"},
		UUID: "6b1a2f4e-0000-4000-8000-0123456789ab", Log: slog.New(slog.DiscardHandler),
		Features: func(name string) []string {
			if name == "enp1s0" {
				return []string{"rx", "tx", "tso"}
			}
			return nil
		},
	}
}

func open(t testing.TB, cfg Config) *Manager {
	t.Helper()
	m, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// TestGolden: what is said of each device of the recorded host.
func TestGolden(t *testing.T) {
	m := open(t, testConfig(t))
	var have []string
	for _, d := range m.List() {
		have = append(have, d.Name+".xml")
		text, err := m.XML(d.Name)
		if err != nil {
			t.Errorf("%s: %v", d.Name, err)
			continue
		}
		file := filepath.Join(goldens, d.Name+".xml")
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		} else if string(want) != text {
			t.Errorf("%s: got\n%s\nwant\n%s", d.Name, text, want)
		}
	}
	entries, err := os.ReadDir(goldens)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(have, e.Name()) {
			t.Errorf("there is no device for golden %s", e.Name())
		}
	}
}

// TestReadsBack: the typed view that Go clients use understands the documents, with all that is in them.
func TestReadsBack(t *testing.T) {
	m := open(t, testConfig(t))
	read := func(name string) libvirtxml.NodeDevice {
		t.Helper()
		text, err := m.XML(name)
		if err != nil {
			t.Fatal(err)
		}
		var d libvirtxml.NodeDevice
		if err := d.Unmarshal(text); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.Name != name {
			t.Errorf("%s reads back as %s", name, d.Name)
		}
		return d
	}
	for _, d := range m.List() {
		if d.Kind != SCSIGeneric { // libvirtxml does not have it
			read(d.Name)
		}
	}
	pf := read("pci_0000_01_00_0").Capability.PCI
	if pf == nil || pf.IOMMUGroup == nil || pf.IOMMUGroup.Number != 2 || pf.NUMA == nil || len(pf.PCIExpress.Links) != 2 {
		t.Fatalf("physical function: %+v", pf)
	}
	i := slices.IndexFunc(pf.Capabilities, func(c libvirtxml.NodeDevicePCISubCapability) bool { return c.VirtFunctions != nil })
	if i < 0 || pf.Capabilities[i].VirtFunctions.MaxCount != 7 || len(pf.Capabilities[i].VirtFunctions.Address) != 2 {
		t.Errorf("virtual functions: %+v", pf.Capabilities)
	} else if a := pf.Capabilities[i].VirtFunctions.Address; *a[1].Domain != 0 || *a[1].Bus != 1 || *a[1].Slot != 0x10 || *a[1].Function != 2 {
		t.Errorf("second virtual function: %+v", a[1])
	}
	vf := read("pci_0000_01_10_2")
	if vf.Parent != "pci_0000_00_02_0" || vf.Driver == nil || vf.Driver.Name != "igbvf" {
		t.Errorf("virtual function: %+v", vf)
	}
	if p := vf.Capability.PCI.Capabilities; len(p) != 1 || p[0].PhysFunction == nil || *p[0].PhysFunction.Address.Bus != 1 || *p[0].PhysFunction.Address.Slot != 0 {
		t.Errorf("physical function: %+v", p)
	}
}

// TestSchemas: libvirt's schema accepts every document.
func TestSchemas(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goldens, "*.xml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("goldens: %v, %v", files, err)
	}
	accepted(t, files)
}

// accepted checks documents against libvirt's schema. The folder of the schemas is VIRTD_SCHEMAS, the lab's, or where the
// distribution's package libvirt0 puts them.
func accepted(t *testing.T, files []string) {
	t.Helper()
	home, _ := os.UserHomeDir()
	root := filepath.Join(home, ".cache", "virtd-lab")
	if lab := os.Getenv("LAB"); lab != "" {
		root = lab
	}
	var schema string
	for _, dir := range []string{os.Getenv("VIRTD_SCHEMAS"), "/usr/share/libvirt/schemas", filepath.Join(root, "root/usr/share/libvirt/schemas")} {
		if _, err := os.Stat(filepath.Join(dir, "nodedev.rng")); dir != "" && err == nil {
			schema = filepath.Join(dir, "nodedev.rng")
			break
		}
	}
	if schema == "" {
		t.Skip("libvirt's schemas are not here: build the lab (lab/lab.sh build) or set VIRTD_SCHEMAS")
	}
	xmllint, err := exec.LookPath("xmllint")
	if err != nil {
		if xmllint, err = exec.LookPath(filepath.Join(root, "bin", "xmllint")); err != nil {
			t.Skip("xmllint is not installed (package libxml2-utils)")
		}
	}
	out, err := exec.Command(xmllint, append([]string{"--noout", "--nonet", "--relaxng", schema}, files...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestHostileText: whatever a device says of itself, the document is one that XML readers take.
func TestHostileText(t *testing.T) {
	cfg := testConfig(t)
	nodedevtest.Build(t, cfg.Sys, "@ devices/virtual/dmi/id\nsys_vendor <\x01]]>&'\"\xff\x00\n")
	m := open(t, cfg)
	text, err := m.XML("computer")
	if err != nil {
		t.Fatal(err)
	}
	var any struct{}
	if err := xml.Unmarshal([]byte(text), &any); err != nil || !strings.Contains(text, "&lt;]]&gt;&amp;") {
		t.Errorf("%v\n%s", err, text)
	}
}
