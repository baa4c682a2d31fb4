package domain

import (
	"strings"
	"testing"
)

// A running domain's XML shows its chains, in libvirt's order, and its inactive form does not.
func TestChainsAreShown(t *testing.T) {
	d, err := Parse(`<domain type='kvm'><name>a</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os><devices>
		<disk type='file'><driver name='qemu' type='qcow2'/><source file='/top'/><target dev='vda'/></disk>
		<disk type='file'><source file='/raw'/><target dev='vdb'/></disk></devices></domain>`, Options{})
	if err != nil {
		t.Fatal(err)
	}
	live, err := d.Start(1, nil)
	if err != nil {
		t.Fatal(err)
	}
	live, err = live.SetRuntime(Runtime{Chains: map[string][]BackingImage{
		"virtio-disk0": {{Path: "/middle", Format: "qcow2"}, {Path: "/dev/base", Format: "raw", Block: true}}, "virtio-disk1": {},
	}})
	if err != nil {
		t.Fatal(err)
	}
	text := live.XML(0)
	want := `      <source file='/top' index='1'/>
      <backingStore type='file' index='2'>
        <format type='qcow2'/>
        <source file='/middle'/>
        <backingStore type='block' index='3'>
          <format type='raw'/>
          <source dev='/dev/base'/>
          <backingStore/>
        </backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/>
`
	if !strings.Contains(text, want) || !strings.Contains(text, "<source file='/raw' index='4'/>\n      <backingStore/>\n      <target dev='vdb'") {
		t.Errorf("live:\n%s", text)
	}
	if off := live.XML(XMLInactive); strings.Contains(off, "backingStore") || strings.Contains(off, "index='1'/>\n      <target") {
		t.Errorf("inactive:\n%s", off)
	}
}
