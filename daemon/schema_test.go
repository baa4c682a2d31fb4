package daemon_test

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/network/portconf"
)

// schemas is where the distribution's package libvirt0 puts libvirt's RELAX NG schemas; LIBVIRT_SCHEMAS names others.
var schemas = cmp.Or(os.Getenv("LIBVIRT_SCHEMAS"), "/usr/share/libvirt/schemas")

// needSchemas returns the path of xmllint. The test is skipped where it or libvirt's schemas are not.
func needSchemas(t *testing.T) string {
	t.Helper()
	xmllint, err := exec.LookPath("xmllint")
	if err != nil {
		t.Skip("xmllint is not installed (package libxml2-utils)")
	}
	if _, err := os.Stat(schemas); err != nil {
		t.Skip("libvirt's schemas are not installed (package libvirt0)")
	}
	return xmllint
}

// TestSchemas: the documents that describe the host are valid by libvirt's own schemas.
func TestSchemas(t *testing.T) {
	xmllint := needSchemas(t)
	b := newTestbed(t)
	l := b.libvirt(t)
	caps, err := l.ConnectGetCapabilities()
	if err != nil {
		t.Fatal(err)
	}
	documents := map[string]string{"capability": caps}
	interfaces, err := testInterfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		documents["interface"] = i.XML(true)
		b.validate(t, xmllint, documents)
	}
	for _, machine := range []libvirt.OptString{nil, {"q35"}, {"pc"}} {
		domcaps, err := l.ConnectGetDomainCapabilities(nil, nil, machine, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		documents["domaincaps"] = domcaps
		b.validate(t, xmllint, documents)
	}
}

// validate checks documents, by the names of their schemas.
func (b *testbed) validate(t *testing.T, xmllint string, documents map[string]string) {
	t.Helper()
	for schema, text := range documents {
		file := filepath.Join(b.dir, schema+".xml")
		if err := os.WriteFile(file, []byte(forSchema(t, schema, text)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(xmllint, "--noout", "--nonet", "--relaxng", filepath.Join(schemas, schema+".rng"), file).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s\n%s", schema, err, out, text)
		}
	}
}

// forSchema removes the one attribute that newer schemas demand where a processor's place is given, and older ones refuse.
func forSchema(t *testing.T, schema, text string) string {
	t.Helper()
	rng, err := os.ReadFile(filepath.Join(schemas, schema+".rng"))
	if err != nil {
		t.Fatal(err)
	}
	if schema == "capability" && !bytes.Contains(rng, []byte("cluster_id")) {
		return regexp.MustCompile(` cluster_id='\d+'`).ReplaceAllString(text, "")
	}
	return text
}

// TestFunctionPoolSchemas: what clients read of a pool of virtual functions in use is valid by libvirt's own schemas.
func TestFunctionPoolSchemas(t *testing.T) {
	xmllint := needSchemas(t)
	b := newTestbed(t)
	b.netHost.SetFunctions("enp1s0", portconf.Function{Bus: 1, Slot: 16}, portconf.Function{Bus: 1, Slot: 16, Number: 2})
	l := b.libvirt(t)
	n, err := l.NetworkCreateXML("<network><name>lab</name><forward mode='hostdev' managed='yes'><driver name='vfio'/><pf dev='enp1s0'/></forward><vlan><tag id='42'/></vlan></network>")
	if err != nil {
		t.Fatal(err)
	}
	b.writeXML(t)
	b.writeNetworks(t)
	text, err := os.ReadFile(filepath.Join(b.dir, "on-lab.xml"))
	if err != nil {
		t.Fatal(err)
	}
	dom, err := l.DomainCreateXML(string(text), 0)
	if err != nil {
		t.Fatal(err)
	}
	documents := map[string]string{}
	if documents["domain"], err = l.DomainGetXMLDesc(dom, 0); err != nil {
		t.Fatal(err)
	}
	if documents["network"], err = l.NetworkGetXMLDesc(n, 0); err != nil {
		t.Fatal(err)
	}
	ports, _, err := l.NetworkListAllPorts(n, 1, 0)
	if err != nil || len(ports) != 1 {
		t.Fatalf("ports: %v, %v", ports, err)
	}
	if documents["networkport"], err = l.NetworkPortGetXMLDesc(ports[0], 0); err != nil {
		t.Fatal(err)
	}
	for schema, want := range map[string]string{"domain": "<interface type='hostdev' managed='yes'>", "network": "function='0x0' connections='1'/>", "networkport": "<plug type='hostdev-pci' managed='yes'>"} {
		if !strings.Contains(documents[schema], want) {
			t.Errorf("no %q in:\n%s", want, documents[schema])
		}
	}
	b.validate(t, xmllint, documents)
}
