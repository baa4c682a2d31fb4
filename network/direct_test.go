package network_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"virtd/network"
	"virtd/network/networktest"
	"virtd/network/portconf"
	"virtd/virterr"
)

func poolXML(name, mode string, devs ...string) string {
	text := "<network><name>" + name + "</name><forward mode='" + mode + "'>"
	for _, d := range devs {
		text += "<interface dev='" + d + "'/>"
	}
	return text + "</forward></network>"
}

func connect(t *testing.T, m *network.Manager, name, domain string) *network.Port {
	t.Helper()
	p, err := m.Connect(network.Request{Network: name, Owner: network.Owner{Name: domain, UUID: uuid.New()}, MAC: "52:54:00:00:00:01"})
	ok(t, err)
	return p
}

// A pool of links in mode passthrough gives each port a link, takes it back, and is the same after a restart of virtd.
func TestPassthroughPool(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	for _, l := range []string{"eth1", "eth2"} {
		host.AddLink(l)
	}
	m := openManager(t, host, dir)
	n, err := m.Define(poolXML("pool", "passthrough", "eth1", "eth2", "eth9"))
	ok(t, err)
	text, err := n.XML(false)
	ok(t, err)
	if !strings.Contains(text, "<forward dev='eth1' mode='passthrough'>") {
		t.Errorf("document:\n%s", text)
	}
	a, b := connect(t, m, "pool", "a"), connect(t, m, "pool", "b") // which starts it
	if a.Dev != "eth1" || b.Dev != "eth2" || a.Mode != "passthrough" || a.Bridge != "" {
		t.Errorf("ports %+v and %+v", a, b)
	}
	_, err = m.Connect(network.Request{Network: "pool", Owner: network.Owner{Name: "c"}})
	fails(t, err, "internal error: network 'pool' requires exclusive access to interfaces, but none are available (eth1 is with domain 'a', eth2 is with domain 'b')")
	m = reopen(t, m, host, dir)
	if n, err = m.LookupByName("pool"); err != nil || !n.Active() {
		t.Fatalf("after a restart: %v", err)
	}
	_, err = m.Connect(network.Request{Network: "pool", Owner: network.Owner{Name: "c"}})
	if !virterr.Is(err, virterr.InternalError) {
		t.Errorf("after a restart a link is given twice: %v", err)
	}
	text, err = n.XML(false)
	ok(t, err)
	for _, want := range []string{"<network connections='2'>", "<interface dev='eth1' connections='1'/>", "<interface dev='eth2' connections='1'/>", "<interface dev='eth9'/>"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if xml := a.XML(); !strings.Contains(xml, "<plug type='direct' dev='eth1' mode='passthrough'/>") {
		t.Errorf("port:\n%s", xml)
	}
	ok(t, m.Disconnect(a.UUID))
	if c := connect(t, m, "pool", "c"); c.Dev != "eth1" {
		t.Errorf("the link that was given back is not given out: %+v", c)
	}
	if _, err := n.Bridge(); err == nil || err.Error() != "internal error: network 'pool' does not have a bridge name." {
		t.Errorf("bridge: %v", err)
	}
}

// What a macvtap cannot do for an interface is refused, and takes no link.
func TestPoolRefuses(t *testing.T) {
	host := &networktest.Fake{}
	host.AddLink("eth1")
	m := openManager(t, host, t.TempDir())
	_, err := m.Define(poolXML("pool", "passthrough", "eth1"))
	ok(t, err)
	const mac = "52:54:00:00:00:01"
	for want, r := range map[string]network.Request{
		"unsupported configuration: interface " + mac + " - <port isolated='yes'/> is not supported for network interfaces with type='direct'": {Isolated: true},
		"Operation not supported: Invalid use of 'floor' on interface with MAC address " + mac + " - 'floor' is only supported for interface type 'network' " +
			"with forward type 'nat', 'route', 'open' or none": {Limits: portconf.Bandwidth{In: portconf.Rate{Floor: 5}}},
		"unsupported configuration: network 'pool' with forward mode='passthrough' can tag no VLANs: its ports are macvtaps": {VLAN: portconf.VLAN{Tags: []uint16{5}}},
	} {
		r.Network, r.MAC, r.Owner = "pool", mac, network.Owner{Name: "a", UUID: uuid.New()}
		_, err := m.Connect(r)
		fails(t, err, want)
	}
	connect(t, m, "pool", "a")
}

// TestPoolRates: a macvtap has rates, of its own or its port group's, and can get others.
func TestPoolRates(t *testing.T) {
	host := &networktest.Fake{}
	host.AddLink("eth1")
	m := openManager(t, host, t.TempDir())
	n, err := m.Define(strings.Replace(poolXML("pool", "private", "eth1"), "</network>",
		"<portgroup name='slow' default='yes'><bandwidth><outbound average='10'/></bandwidth></portgroup></network>", 1))
	ok(t, err)
	ten := portconf.Bandwidth{Out: portconf.Rate{Average: 10}}
	p := connect(t, m, "pool", "a")
	same(t, p.Limits, ten)
	own := portconf.Bandwidth{In: portconf.Rate{Average: 7}}
	ok(t, m.Limit(p.UUID, own))
	list, err := n.Ports()
	ok(t, err)
	same(t, list[0].Limits, own)
	if err := m.Limit(p.UUID, portconf.Bandwidth{In: portconf.Rate{Floor: 7}}); !virterr.Is(err, virterr.OperationUnsupported) {
		t.Errorf("a floor of a macvtap: %v", err)
	}
}

// Other modes spread their ports over the links, and stay off those that a passthrough network has.
func TestSharedPool(t *testing.T) {
	host := &networktest.Fake{}
	for _, l := range []string{"eth1", "eth2", "eth3"} {
		host.AddLink(l)
	}
	m := openManager(t, host, t.TempDir())
	_, err := m.Define(poolXML("alone", "passthrough", "eth2"))
	ok(t, err)
	_, err = m.Define(strings.Replace(poolXML("shared", "bridge", "eth1", "eth2", "eth3"), "<network>", "<network trustGuestRxFilters='yes'>", 1))
	ok(t, err)
	connect(t, m, "alone", "x")
	var got []string
	for range 4 {
		p := connect(t, m, "shared", "y")
		if got = append(got, p.Dev); p.Mode != "bridge" || !p.Trust || !strings.Contains(p.XML(), "<rxfilters trustGuest='yes'/>") {
			t.Errorf("port %+v", p)
		}
	}
	same(t, got, []string{"eth1", "eth3", "eth1", "eth3"})
	_, err = m.Define(poolXML("none", "private", "eth8", "eth9"))
	ok(t, err)
	_, err = m.Connect(network.Request{Network: "none", Owner: network.Owner{Name: "z"}})
	if err == nil || !strings.Contains(err.Error(), "network 'none' has no link that exists: eth8, eth9") {
		t.Errorf("links that are not there: %v", err)
	}
}

// The host's own link comes and goes with the network, and comes back with virtd.
func TestHostLinkFollowsNetwork(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	host.AddLink("eth1")
	m := openManager(t, host, dir)
	n, err := m.Define(strings.Replace(poolXML("lan", "bridge", "eth1"), "<forward", hostMetadata("192.0.2.5/24", "192.0.2.192/26")+"<forward", 1))
	ok(t, err)
	ok(t, n.Start())
	want := "host 192.0.2.5/24 on eth1 for [192.0.2.192/26]"
	same(t, host.State(), []string{want})
	m.Close()
	again := &networktest.Fake{}
	again.AddLink("eth1")
	m = openManager(t, again, dir)
	same(t, again.State(), []string{want})
	n, err = m.LookupByName("lan")
	ok(t, err)
	ok(t, n.Destroy())
	if left := again.State(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// reopen is the next virtd.
func reopen(t *testing.T, m *network.Manager, host network.Host, dir string) *network.Manager {
	t.Helper()
	m.Close()
	return openManager(t, host, dir)
}
