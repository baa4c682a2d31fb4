package domain

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestNotProvided: what a document asks for and the guest does not get is told, each once, and nothing else is.
func TestNotProvided(t *testing.T) {
	text, err := os.ReadFile("../xml/testdata/domain/not-provided.xml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(string(text), Options{Validate: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"not provided: controller type='usb' model='qemu-xhci'",
		"not provided: channel type='unix' (there are no virtio-serial channels)",
		"not provided: channel type='spicevmc' (there are no virtio-serial channels)",
		"not provided: input type='tablet' bus='usb' (there is no USB and no display)",
		"not provided: graphics type='spice' (there is no display)",
		"not provided: graphics type='vnc' (there is no display)",
		"not provided: sound model='ich9' (there is no sound)",
		"not provided: audio type='spice' (there is no sound)",
		"not provided: model of video type='qxl' (there is no display)",
		"not provided: redirdev type='spicevmc' bus='usb' (there is no USB)",
		"not provided: watchdog model='i6300esb' (there is no watchdog device)",
	}
	if got := d.NotProvided(); !slices.Equal(got, want) {
		t.Errorf("not provided:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	again, err := Parse(d.XML(0), Options{Stored: true})
	if err != nil {
		t.Fatal(err)
	}
	if again.XML(0) != d.XML(0) {
		t.Error("a second reading changed the document")
	}
}

// TestRatesNotProvided: an interface without a link on the host that could have rates says so; others have them.
func TestRatesNotProvided(t *testing.T) {
	const rates = "<bandwidth><inbound average='5'/></bandwidth>"
	nics := "<interface type='user'>" + rates + "</interface><interface type='user'>" + rates + "</interface><interface type='user'><bandwidth/></interface>" +
		"<interface type='vhostuser'><source type='unix' path='/s' mode='client'/>" + rates + "</interface>" +
		"<interface type='direct'><source dev='eth0'/>" + rates + "</interface><interface type='network'><source network='default'/>" + rates + "</interface>" +
		"<interface type='ethernet'>" + rates + "</interface><interface type='bridge'><source bridge='br0'/>" + rates + "</interface>"
	d, err := Parse(strings.Replace(deviceDomain, "</devices>", nics+"</devices>", 1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"not provided: bandwidth of interface type='user' (only taps and macvtaps have limits)",
		"not provided: bandwidth of interface type='vhostuser' (only taps and macvtaps have limits)",
	}
	if got := d.NotProvided(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestNotProvidedNothing: a domain that has only what exists is told nothing.
func TestNotProvidedNothing(t *testing.T) {
	for _, name := range []string{"idle-devices", "console-virtio", "disk-options"} {
		text, err := os.ReadFile("../xml/testdata/domain/" + name + ".xml")
		if err != nil {
			t.Fatal(err)
		}
		d, err := Parse(string(text), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := d.NotProvided(); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
}
