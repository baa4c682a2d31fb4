package domain

import (
	"strings"
	"testing"

	"virtd/virterr"
)

// TestIsolatedPorts: only a port of a bridge can be isolated, whichever way an interface comes to ask for it.
func TestIsolatedPorts(t *testing.T) {
	const mac, isolated = "<mac address='52:54:00:00:00:02'/>", "<port isolated='yes'/>"
	for kind, source := range map[string]string{
		"bridge":    "<source bridge='br0'/>",
		"network":   "<source network='default'/>",
		"ethernet":  "<target dev='tap7' managed='no'/>",
		"direct":    "<source dev='eth0'/>",
		"user":      "",
		"vhostuser": "<source type='unix' path='/s' mode='client'/>",
		"hostdev":   "<source><address type='pci' domain='0' bus='1' slot='16' function='0'/></source>",
	} {
		refused := func(how string, err error) {
			t.Helper()
			if kind == "bridge" || kind == "network" {
				if err != nil {
					t.Errorf("%s of type %s: %v", how, kind, err)
				}
				return
			}
			want := "interface 52:54:00:00:00:02 - <port isolated='yes'/> is not supported for network interfaces with type='" + kind + "'"
			if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of type %s: %v", how, kind, err)
			}
		}
		plain := "<interface type='" + kind + "'>" + mac + source + "</interface>"
		asks := strings.Replace(plain, "</interface>", isolated+"</interface>", 1)
		without := strings.Replace(deviceDomain, mac, "<mac address='52:54:00:00:00:07'/>", 1)
		_, err := Parse(strings.Replace(without, "</devices>", asks+"</devices>", 1), Options{})
		refused("defining one", err)
		old, err := Parse(strings.Replace(without, "</devices>", asks+"</devices>", 1), Options{Stored: true})
		if err != nil {
			t.Fatalf("a stored one of type %s: %v", kind, err)
		}
		refused("starting one that is stored", old.Check())
		d, err := Parse(without, Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.AttachDevice(device(t, asks))
		refused("attaching one", err)
		if d, err = Parse(strings.Replace(without, "</devices>", plain+"</devices>", 1), Options{}); err != nil {
			t.Fatalf("without isolation, of type %s: %v", kind, err)
		}
		_, err = d.UpdateDevice(device(t, asks))
		refused("updating one", err)
		if kind == "hostdev" {
			continue // whose live update is refused as such
		}
		_, _, err = d.LiveUpdate(device(t, asks))
		refused("updating a running one", err)
	}
}
