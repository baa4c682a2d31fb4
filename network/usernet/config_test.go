package usernet

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"virtd/domain"
	"virtd/virterr"
)

var tcp = domain.PortForward{Protocol: "tcp", Address: netip.MustParseAddr("127.0.0.1"), Ranges: []domain.PortRange{
	{Start: 2022, End: 2022, To: 22}, {Start: 8000, End: 8003, To: 9000}, {Start: 8001, End: 8001, To: 8001, Exclude: true}}}

func TestPasstArgs(t *testing.T) {
	c := Config{MTU: 9000, Network: domain.UserNetwork{
		Device: "eth0", IPv4: netip.MustParsePrefix("10.5.0.9/16"), IPv6: netip.MustParsePrefix("fd00:5::9/64"),
		Forwards: []domain.PortForward{tcp, {Protocol: "udp", Device: "eth0"}, {Protocol: "udp", Address: netip.MustParseAddr("::1"),
			Ranges: []domain.PortRange{{Start: 53, End: 54, To: 53}}}},
	}}
	want := "--foreground --quiet --fd 3 --mtu 9000 --interface eth0 --address 10.5.0.9 --netmask 16 --address fd00:5::9 " +
		"--tcp-ports 127.0.0.1/2022:22,8000-8003:9000-9003,~8001 --udp-ports %eth0/all --udp-ports ::1/53-54"
	if got := strings.Join(c.passtArgs(3), " "); got != want {
		t.Errorf("passt %s\nwant  %s", got, want)
	}
}

func TestForwards(t *testing.T) {
	c := Config{Network: domain.UserNetwork{Forwards: []domain.PortForward{tcp, {Protocol: "udp", Ranges: []domain.PortRange{{Start: 53, End: 53, To: 53}}}}}}
	got, err := c.Forwards()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for from, to := range got {
		list = append(list, from+">"+to)
	}
	slices.Sort(list)
	want := []string{"127.0.0.1:2022>10.0.2.15:22", "127.0.0.1:8000>10.0.2.15:9000", "127.0.0.1:8002>10.0.2.15:9002", "127.0.0.1:8003>10.0.2.15:9003", "udp:0.0.0.0:53>10.0.2.15:53"}
	if !slices.Equal(list, want) {
		t.Errorf("forwards %q\nwant     %q", list, want)
	}
	c.Network.Forwards = []domain.PortForward{{Protocol: "tcp", Ranges: []domain.PortRange{{Start: 1, End: 65535, To: 1}}}}
	if _, err := c.Forwards(); !virterr.Is(err, virterr.ConfigUnsupported) {
		t.Errorf("all ports: %v", err)
	}
}

// Without passt what only passt can do is refused, and says so.
func TestRefusedWithoutPasst(t *testing.T) {
	for want, n := range map[string]domain.UserNetwork{
		"":                                {},
		"passt is not installed; install": {Passt: true},
		"an IPv6 address needs passt":     {IPv6: netip.MustParsePrefix("fd00::9/64")},
		"<source dev='eth0'/> needs":      {Device: "eth0"},
		"no room for a router":            {IPv4: netip.MustParsePrefix("10.0.0.1/30")},
		"10.0.0.2 is not free":            {IPv4: netip.MustParsePrefix("10.0.0.2/24")},
		"<portForward dev='eth0'>":        {Forwards: []domain.PortForward{{Protocol: "tcp", Device: "eth0"}}},
		"<portForward address='::1'>":     {Forwards: []domain.PortForward{{Protocol: "tcp", Address: netip.MustParseAddr("::1")}}},
		"<portForward> without a <range>": {Forwards: []domain.PortForward{{Protocol: "tcp", Ranges: []domain.PortRange{{Start: 1, End: 1, Exclude: true}}}}},
	} {
		c := Config{Domain: "d", Alias: "net0", Network: n}
		err := c.checkOwn()
		if want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "interface net0 of domain 'd'") {
			t.Errorf("%+v: %v, want %q", n, err, want)
		}
	}
}
