package daemon_test

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/virterr"
)

// TestNetworkPortCalls: what clients other than Python's can send about ports: names and types of parameters that there are not,
// and ports and networks that there are not. A refused call changes nothing.
func TestNetworkPortCalls(t *testing.T) {
	b := newTestbed(t)
	l := b.libvirt(t)
	n, err := l.NetworkCreateXML("<network><name>limited</name><forward/><bandwidth><inbound average='1000'/></bandwidth></network>")
	if err != nil {
		t.Fatal(err)
	}
	port, err := l.NetworkPortCreateXML(n, portXML, 0)
	if err != nil {
		t.Fatal(err)
	}
	before, err := l.NetworkPortGetXMLDesc(port, 0)
	if err != nil {
		t.Fatal(err)
	}
	set := func(field string, value libvirt.TypedParamValue) error {
		return l.NetworkPortSetParameters(port, []libvirt.TypedParam{{Field: field, Value: value}}, 0)
	}
	gone, elsewhere := port, n
	gone.UUID[0]++
	elsewhere.UUID[0]++
	for what, c := range map[string]struct {
		err  error
		code virterr.Code
	}{
		"unknown parameter":      {set("inbound.ceiling", *libvirt.NewTypedParamValueUint(1)), virterr.InvalidArg},
		"parameter of a string":  {set("inbound.average", *libvirt.NewTypedParamValueString("1")), virterr.InvalidArg},
		"negative parameter":     {set("inbound.average", *libvirt.NewTypedParamValueInt(-1)), virterr.InvalidArg},
		"floor of what goes out": {set("outbound.floor", *libvirt.NewTypedParamValueUint(1)), virterr.InvalidArg},
		"too much":               {set("inbound.floor", *libvirt.NewTypedParamValueUint(1001)), virterr.OperationInvalid},
		"flags of set":           {l.NetworkPortSetParameters(port, nil, 1), virterr.InvalidArg},
		"flags of delete":        {l.NetworkPortDelete(port, 2), virterr.InvalidArg},
		"delete what is gone":    {l.NetworkPortDelete(gone, 0), virterr.NoNetworkPort},
		"set what is gone":       {l.NetworkPortSetParameters(gone, nil, 0), virterr.NoNetworkPort},
		"delete elsewhere":       {l.NetworkPortDelete(libvirt.NetworkPort{Net: elsewhere, UUID: port.UUID}, 0), virterr.NoNetwork},
	} {
		var e libvirt.Error
		if !errors.As(c.err, &e) || e.Code != uint32(c.code) {
			t.Errorf("%s: %v, want code %d", what, c.err, c.code)
		}
	}
	if _, err := l.NetworkPortCreateXML(elsewhere, portXML, 0); err == nil {
		t.Error("a port on no network")
	}
	if now, err := l.NetworkPortGetXMLDesc(port, 0); err != nil || now != before {
		t.Errorf("%v\n%s\nwas\n%s", err, now, before)
	}
	if err := set("inbound.floor", *libvirt.NewTypedParamValueUint(1000)); err != nil {
		t.Error(err)
	}
	if err := l.NetworkPortDelete(port, 0); err != nil {
		t.Error(err)
	}
}

// TestNetworkPortSchemas: what clients read of their ports, in every mode of forwarding, is valid by libvirt's own schema.
func TestNetworkPortSchemas(t *testing.T) {
	xmllint := needSchemas(t)
	b := newTestbed(t)
	for _, link := range []string{"br0", "eth5"} {
		b.netHost.AddLink(link)
	}
	l := b.libvirt(t)
	for i, c := range []struct{ forward, inside, plug string }{
		{"<forward mode='nat'/>", "<port isolated='yes'/><bandwidth><inbound average='1'/><outbound average='2' burst='3'/></bandwidth>", "<plug type='network' bridge='virbr0'/>"},
		{"", "<group>g</group>", "<plug type='network' bridge='virbr0'/>"},
		{"<forward mode='bridge'/><bridge name='br0'/>", "<vlan trunk='yes'><tag id='42'/><tag id='43' nativeMode='untagged'/></vlan>", "<plug type='bridge' bridge='br0'/>"},
		{"<forward mode='vepa'><interface dev='eth5'/></forward>", "<rxfilters trustGuest='yes'/>", "<plug type='direct' dev='eth5' mode='vepa'/>"},
	} {
		n, err := l.NetworkCreateXML("<network><name>n</name>" + c.forward + "<portgroup name='g'/></network>")
		if err != nil {
			t.Fatal(err)
		}
		document := strings.NewReplacer("  <bandwidth>\n    <inbound average='10' floor='200'/>\n  </bandwidth>\n", c.inside).Replace(portXML)
		port, err := l.NetworkPortCreateXML(n, document, 0)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		text, err := l.NetworkPortGetXMLDesc(port, 0)
		if err != nil || !strings.Contains(text, c.plug) {
			t.Errorf("%v, no %s in:\n%s", err, c.plug, text)
		}
		b.validate(t, xmllint, map[string]string{"networkport": text})
		if err := l.NetworkDestroy(n); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDocumentedPort: the document that docs/networks.md shows makes a port.
func TestDocumentedPort(t *testing.T) {
	page, err := os.ReadFile("../docs/networks.md")
	if err != nil {
		t.Fatal(err)
	}
	document := regexp.MustCompile(`(?s)<networkport>.*?</networkport>`).FindString(string(page))
	l := newTestbed(t).libvirt(t)
	n, err := l.NetworkCreateXML("<network><name>limited</name><forward/><bandwidth><inbound average='1000'/></bandwidth></network>")
	if err != nil {
		t.Fatal(err)
	}
	if port, err := l.NetworkPortCreateXML(n, document, 0); err != nil || port.UUID == (libvirt.UUID{}) {
		t.Errorf("%v, %v", port, err)
	}
}
