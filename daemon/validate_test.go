package daemon_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
)

// TestValidateAsSchema: what virsh define --validate refuses is what the distribution's virt-xml-validate, which knows
// libvirt's schema, refuses. ours says why, where virtd is the stricter one.
func TestValidateAsSchema(t *testing.T) {
	if testing.Short() {
		t.Skip("nothing runs beside it")
	}
	for program, pkg := range map[string]string{"virt-xml-validate": "libvirt-clients", "xmllint": "libxml2-utils"} {
		if _, err := exec.LookPath(program); err != nil {
			lacks(t, pkg)
		}
	}
	b := newTestbed(t)
	b.writeXML(t)
	l := b.libvirt(t)
	text, err := os.ReadFile(filepath.Join(b.dir, "demo.xml"))
	if err != nil {
		t.Fatal(err)
	}
	document := string(text)
	for _, tt := range []struct{ name, old, with, ours string }{
		{name: "as it is"},
		{"metadata of others", "<devices>", "<metadata><a:b xmlns:a='urn:a'>text</a:b></metadata><devices>", ""},
		{"unknown element", "<devices>", "<thing/><devices>", ""},
		{"unknown device", "<devices>", "<devices><gizmo/>", ""},
		{"unknown attribute", "<acpi/>", "<acpi level='1'/>", ""},
		{"unknown choice", "on_reboot>restart", "on_reboot>maybe", ""},
		{"unknown bus", "bus='virtio'", "bus='warp'", ""},
		{"unknown unit", "unit='MiB'", "unit='QiB'", ""},
		{"unknown type of domain", "type='kvm'", "type='other'", ""},
		{"unknown kind of disk", "device='disk'", "device='gramophone'", ""},
		{"unknown format", "type='raw'", "type='zip'", ""},
		{"no number", "'>4</vcpu>", "'>four</vcpu>", ""},
		{"negative size", ">1024<", ">-1<", ""},
		{"no name", "<name>demo</name>", "", ""},
		{"empty name", "<name>demo<", "<name><", ""},
		{"short MAC address", "52:54:00:12:34:56", "52:54", ""},
		{"short UUID", "11111111-2222", "11-2222", ""},
		{"element twice", "<acpi/>", "<acpi/></features><features><acpi/>", ""},
		{"text between elements", "<acpi/>", "text<acpi/>", ""},
		{"text between devices", "<devices>", "<devices>text", ""},
		{"spaces in a target", "'vda'", "'v d a'", ""},
		{"lines in a title", "A demo", "A&#10;demo", ""},
		{"element of a namespace", "<devices>", "<a:b xmlns:a='urn:a'/><devices>", ""},
		{"device of a namespace", "<devices>", "<devices><a:b xmlns:a='urn:a'/>", ""},
		{"attribute of a namespace", "<devices>", "<devices xmlns:a='urn:a' a:b='1'>", ""},
		{"slash in a name", "<name>demo<", "<name>a/b<", "the name is that of files too"},
		{"device that is not there", "<devices>", "<devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", "there is no TPM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			xml := strings.Replace(document, tt.old, tt.with, 1)
			if xml == document && tt.old != "" {
				t.Fatal("the document does not have it")
			}
			b.write(t, "validated.xml", xml)
			out, err := exec.Command("virt-xml-validate", filepath.Join(b.dir, "validated.xml"), "domain").CombinedOutput()
			schema := err == nil
			_, err = l.DomainDefineXMLFlags(xml, libvirt.DomainDefineValidate)
			switch {
			case tt.ours != "" && (!schema || err == nil):
				t.Errorf("not stricter (%s): schema %v, define --validate: %v", tt.ours, schema, err)
			case tt.ours == "" && schema != (err == nil):
				t.Errorf("schema: %s\ndefine --validate: %v", out, err)
			}
		})
	}
}
