package network_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"virtd/network"
	"virtd/network/networktest"
	"virtd/virterr"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails checks that an error is libvirt's.
func fails(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got error %q, want %q", err, want)
	}
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

const natXML = `<network><name>nat</name><uuid>11111111-2222-4333-8444-00000000000a</uuid><forward/>
<ip address='10.9.0.1' prefix='24'><dhcp><range start='10.9.0.2' end='10.9.0.9'/></dhcp></ip></network>`

// TestLifecycle: every call on a network, its refusals and its events.
func TestLifecycle(t *testing.T) {
	host := &networktest.Fake{}
	m := openManager(t, host, t.TempDir())
	var mu sync.Mutex
	var events []network.Lifecycle
	m.Subscribe(func(e network.Event) { mu.Lock(); events = append(events, e.Type); mu.Unlock() })
	_, err := m.LookupByName("nat")
	fails(t, err, "Network not found: no network with matching name 'nat'")
	n, err := m.Define(natXML)
	ok(t, err)
	fails(t, n.Destroy(), "Requested operation is not valid: network 'nat' is not active")
	ok(t, n.SetAutostart(true))
	ok(t, n.Start())
	fails(t, n.Start(), "Requested operation is not valid: network is already active")
	same(t, host.State(), []string{"bridge virbr0 [10.9.0.1/24]", "filters nat", "serves nat"})
	_, err = m.Define(strings.Replace(natXML, "00000a<", "00000b<", 1))
	fails(t, err, "operation failed: network 'nat' already exists with uuid 11111111-2222-4333-8444-00000000000a")
	_, err = m.Define(strings.Replace(natXML, ">nat<", ">other<", 1))
	fails(t, err, "operation failed: network 'nat' is already defined with uuid 11111111-2222-4333-8444-00000000000a")
	_, err = m.Create(natXML)
	fails(t, err, "Requested operation is not valid: network is already active as 'nat'")
	ok(t, n.Undefine())
	if n.Persistent() || !n.Active() || n.Autostart() {
		t.Error("an active network that was undefined is not transient")
	}
	fails(t, n.Undefine(), "Requested operation is not valid: can't undefine transient network")
	fails(t, n.SetAutostart(true), "Requested operation is not valid: cannot set autostart for transient network")
	ok(t, n.Destroy())
	same(t, host.State(), []string(nil))
	fails(t, n.Start(), "Network not found: no network with matching uuid '11111111-2222-4333-8444-00000000000a' (nat)")
	m.Close()
	same(t, events, []network.Lifecycle{network.Defined, network.Started, network.Undefined, network.Stopped})
}

// TestRestartFindsNetworks: definitions, marks, active state and ports are there for the next manager, which puts right what
// is missing on the host; after a boot only what is persistent.
func TestRestartFindsNetworks(t *testing.T) {
	dir, host := t.TempDir(), &networktest.Fake{}
	m := openManager(t, host, dir)
	n, err := m.Define(natXML)
	ok(t, err)
	ok(t, n.SetAutostart(true))
	ok(t, n.Start())
	_, err = m.Create(`<network><name>brief</name></network>`)
	ok(t, err)
	_, err = m.Define(strings.Replace(natXML, "10.9.0.9", "10.9.0.8", 1))
	ok(t, err)
	before, err := n.XML(false)
	ok(t, err)
	p, err := m.Connect(network.Request{Network: "nat", Owner: network.Owner{Name: "d", UUID: uuid.New()}, MAC: "52:54:00:00:00:01"})
	ok(t, err)
	ok(t, m.Connected(p.UUID, "vnet7"))

	fresh := &networktest.Fake{}
	m = openManager(t, fresh, dir)
	same(t, fresh.State(), []string{"bridge virbr0 [10.9.0.1/24]", "bridge virbr1 []", "filters brief", "filters nat", "serves brief", "serves nat", "virbr0 has vnet7"})
	n, err = m.LookupByName("nat")
	ok(t, err)
	after, err := n.XML(false)
	ok(t, err)
	if strings.Replace(after, " connections='1'", "", 1) != before || !strings.Contains(after, "<network connections='1'>") {
		t.Errorf("what runs changed:\n%s\n%s", before, after)
	}
	if next, _ := n.XML(true); !strings.Contains(next, "10.9.0.8") {
		t.Errorf("the definition of the next start is lost:\n%s", next)
	}
	m.Retain(map[uuid.UUID]bool{})
	ports, err := n.Ports()
	ok(t, err)
	if len(ports) != 0 {
		t.Error("the port of a domain that ended is kept")
	}

	ok(t, os.RemoveAll(filepath.Join(dir, "run"))) // a boot
	booted := &networktest.Fake{}
	m = openManager(t, booted, dir)
	same(t, booted.State(), []string(nil))
	if len(m.List(0)) != 1 {
		t.Errorf("%d networks after a boot", len(m.List(0)))
	}
	m.Autostart()
	same(t, booted.State(), []string{"bridge virbr0 [10.9.0.1/24]", "filters nat", "serves nat"})
	ok(t, m.List(0)[0].Destroy())
	m.Autostart()
	same(t, booted.State(), []string(nil))
}

// TestCollisions: a network never takes a subnet or a bridge that somebody has, and says who.
func TestCollisions(t *testing.T) {
	host := &networktest.Fake{}
	host.AddLink("virbr0")
	host.AddRoute(network.HostRoute{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Link: "eth0"})
	m := openManager(t, host, t.TempDir())
	n, err := m.Define(natXML)
	ok(t, err)
	if b, _ := n.Bridge(); b != "virbr1" {
		t.Errorf("bridge %s, but virbr0 is the host's", b)
	}
	fails(t, n.Start(), "internal error: Network is already in use by interface eth0 (10.9.0.0/16 there, 10.9.0.0/24 wanted by network 'nat')")
	_, err = m.Define(document("<bridge name='virbr1'/>"))
	fails(t, err, "internal error: bridge name 'virbr1' already in use.")
	own, err := m.Define(document("<bridge name='own0'/>"))
	ok(t, err)
	host.AddLink("own0")
	fails(t, own.Start(), "internal error: bridge name 'own0' already in use.")
	lent, err := m.Define("<network><name>lent</name><forward mode='bridge'/><bridge name='br9'/></network>")
	ok(t, err)
	fails(t, lent.Start(), "operation failed: network 'lent' needs the bridge 'br9', which does not exist")
	same(t, host.State(), []string(nil))
	first, err := m.Create(strings.ReplaceAll(document("<bridge name='b1'/><ip address='10.7.1.1' prefix='24'/>"), "<name>n<", "<name>first<"))
	ok(t, err)
	_, err = m.Create(strings.ReplaceAll(document("<bridge name='b2'/><ip address='10.7.0.1' prefix='16'/>"), "<name>n<", "<name>wide<"))
	fails(t, err, "internal error: Network is already in use by interface b1 of network 'first' (10.7.1.0/24 there, 10.7.0.0/16 wanted by network 'wide')")
	request := network.Request{Network: "first", MAC: "52:54:00:00:00:0a", Owner: network.Owner{Name: "one", UUID: uuid.New()}}
	_, err = m.Connect(request)
	ok(t, err)
	request.MAC, request.Owner = "52:54:00:00:00:0A", network.Owner{Name: "two", UUID: uuid.New()}
	_, err = m.Connect(request)
	fails(t, err, "Requested operation is not valid: MAC address 52:54:00:00:00:0A is in use on network 'first' by domain 'one'; give each domain one of its own")
	if ports, err := first.Ports(); err != nil || len(ports) != 1 {
		t.Errorf("ports: %v, %v", ports, err)
	}
}

// TestFailedStartLeavesNothing: whichever step fails, the host is as before and the network inactive.
func TestFailedStartLeavesNothing(t *testing.T) {
	for _, step := range []string{"Up", "Filter", "Serve"} {
		dir, host := t.TempDir(), &networktest.Fake{}
		m := openManager(t, host, dir)
		n, err := m.Define(natXML)
		ok(t, err)
		failed := false
		host.Fail = func(method, _ string) error {
			if method == step && !failed {
				failed = true
				return errors.New("no luck")
			}
			return nil
		}
		if err := n.Start(); err == nil || !strings.Contains(err.Error(), "no luck") {
			t.Errorf("%s: %v", step, err)
		}
		same(t, host.State(), []string(nil))
		if n.Active() || openManager(t, host, dir).List(network.ListActive) != nil && len(openManager(t, host, dir).List(network.ListActive)) > 0 {
			t.Errorf("%s: the network counts as active", step)
		}
		ok(t, n.Start())
	}
}

// TestPorts: a domain's interface finds its network's bridge, starts a network that is off, and comes back to a bridge that
// is made again.
func TestPorts(t *testing.T) {
	host := &networktest.Fake{}
	m := openManager(t, host, t.TempDir())
	owner := network.Owner{Name: "d", UUID: uuid.MustParse("11111111-2222-4333-8444-0000000000ff")}
	_, err := m.Connect(network.Request{Network: "nat", Owner: owner})
	fails(t, err, "Network not found: no network with matching name 'nat'")
	n, err := m.Define(strings.Replace(natXML, "<forward/>", "<forward/><port isolated='yes'/><portgroup name='g'/>", 1))
	ok(t, err)
	_, err = n.Ports()
	fails(t, err, "Requested operation is not valid: network 'nat' is not active")
	p, err := m.Connect(network.Request{Network: "nat", Owner: owner, MAC: "52:54:00:00:00:01", Group: "g"})
	ok(t, err)
	if !n.Active() || p.Bridge != "virbr0" || !p.Isolated {
		t.Errorf("active %v, port %+v", n.Active(), p)
	}
	_, err = m.Connect(network.Request{Network: "nat", Owner: owner, Group: "h"})
	fails(t, err, "invalid argument: network 'nat' has no portgroup 'h'")
	want := "<networkport>\n  <uuid>" + p.UUID.String() + "</uuid>\n  <owner>\n    <name>d</name>\n    <uuid>" + owner.UUID.String() +
		"</uuid>\n  </owner>\n  <group>g</group>\n  <mac address='52:54:00:00:00:01'/>\n  <port isolated='yes'/>\n  <plug type='network' bridge='virbr0'/>\n</networkport>\n"
	same(t, p.XML(), want)
	ok(t, m.Connected(p.UUID, "vnet3"))
	ok(t, n.Destroy())
	same(t, host.State(), []string(nil))
	ok(t, n.Start())
	same(t, host.State(), []string{"bridge virbr0 [10.9.0.1/24]", "filters nat", "serves nat", "virbr0 has vnet3 isolated"})
	ok(t, n.Destroy())
	xml, err := n.XML(true)
	ok(t, err)
	_, err = m.Define(strings.Replace(xml, "'virbr0'", "'natbr'", 1))
	ok(t, err)
	ok(t, n.Start())
	same(t, host.State(), []string{"bridge natbr [10.9.0.1/24]", "filters nat", "natbr has vnet3 isolated", "serves nat"})
	p, err = n.Port(p.UUID)
	ok(t, err)
	if p.Bridge != "natbr" {
		t.Errorf("the port is on %s", p.Bridge)
	}
	ok(t, m.Disconnect(p.UUID))
	ok(t, m.Disconnect(p.UUID))
	_, err = n.Port(p.UUID)
	if !virterr.Is(err, virterr.NoNetworkPort) {
		t.Error(err)
	}
}

// TestDefaultNetwork: the first run makes it, on a subnet that is free, and it is not made again once it was removed.
func TestDefaultNetwork(t *testing.T) {
	dir, host := t.TempDir(), &networktest.Fake{}
	host.AddRoute(network.HostRoute{Prefix: netip.MustParsePrefix("192.168.122.0/23"), Link: "eth0"})
	m := openManager(t, host, dir)
	ok(t, m.EnsureDefault())
	n, err := m.LookupByName("default")
	ok(t, err)
	if xml, _ := n.XML(false); !strings.Contains(xml, "<ip address='192.168.124.1' netmask='255.255.255.0'>") || n.Active() {
		t.Errorf("active %v:\n%s", n.Active(), xml)
	}
	ok(t, n.Undefine())
	m = openManager(t, host, dir)
	ok(t, m.EnsureDefault())
	if len(m.List(0)) != 0 {
		t.Error("the default network came back")
	}
}

// TestUpdate: parts of a definition change live and for good, and what does not fit is refused in libvirt's words.
func TestUpdate(t *testing.T) {
	host := &networktest.Fake{}
	m := openManager(t, host, t.TempDir())
	n, err := m.Define(natXML)
	ok(t, err)
	const alice = "<host mac='52:54:00:00:00:01' name='alice' ip='10.9.0.20'/>"
	change := func(c network.Command, s network.Section, xml string) network.Change {
		return network.Change{c, s, -1, xml}
	}
	fails(t, n.Update(change(network.AddLast, network.SectionDHCPHost, alice), network.AffectLive), "Requested operation is not valid: network is not running")
	ok(t, n.Start())
	ok(t, n.Update(change(network.AddLast, network.SectionDHCPHost, alice), network.AffectLive|network.AffectConfig))
	s, _ := host.Served(n.UUID())
	if len(s.DHCP) != 1 || len(s.DHCP[0].Hosts) != 1 || len(s.DNS.Hosts) != 1 || s.DNS.Hosts[0].Names[0] != "alice" {
		t.Errorf("the services were not told: %+v", s)
	}
	for _, c := range []struct {
		change network.Change
		want   string
	}{
		{change(network.AddFirst, network.SectionDHCPHost, "<host mac='52:54:00:00:00:01' ip='10.9.0.21'/>"),
			"there is an existing dhcp host entry in network 'nat' that matches \"<host mac='52:54:00:00:00:01' name='unknown' ip='10.9.0.21'/>\""},
		{change(network.Delete, network.SectionDHCPHost, "<host mac='52:54:00:00:00:09'/>"), "couldn't locate a matching dhcp host entry in network 'nat'"},
		{change(network.Modify, network.SectionDHCPHost, "<host mac='52:54:00:00:00:09' ip='10.9.0.9'/>"), "couldn't locate an existing dhcp host entry with \"mac='52:54:00:00:00:09'\" in network 'nat'"},
		{change(network.Modify, network.SectionDHCPRange, "<range start='10.9.0.2' end='10.9.0.9'/>"), "dhcp ranges cannot be modified, only added or deleted"},
		{change(network.Delete, network.SectionDHCPRange, "<range start='10.9.0.3' end='10.9.0.9'/>"), "couldn't locate a matching dhcp range entry in network 'nat'"},
		{change(network.Delete, network.SectionDNSHost, "<host ip='10.9.0.2'/>"), "couldn't locate a matching DNS HOST record in network nat"},
	} {
		fails(t, n.Update(c.change, network.AffectLive), "Requested operation is not valid: "+c.want)
	}
	fails(t, n.Update(change(network.AddLast, 7, "<interface/>"), 0), "Operation not supported: can't update 'forward-interface' section of network 'nat'")
	fails(t, n.Update(change(network.AddLast, network.SectionDHCPHost, "<range/>"), 0), "XML error: unexpected element <range>, expecting <host>, while updating network 'nat'")
	if err := n.Update(change(network.AddLast, network.SectionDHCPHost, "<host mac='52:54:00:00:00:02' ip='10.8.0.2'/>"), 0); !virterr.Is(err, virterr.XMLError) {
		t.Errorf("an address outside of the subnet: %v", err)
	}
	ok(t, n.Update(change(network.AddLast, network.SectionDNSHost, "<host ip='10.9.0.5'><hostname>five</hostname></host>"), network.AffectLive))
	ok(t, n.Update(change(network.AddFirst, network.SectionDHCPRange, "<range start='10.9.0.30' end='10.9.0.39'/>"), network.AffectConfig))
	ok(t, n.Update(change(network.Modify, network.SectionDHCPHost, "<host mac='52:54:00:00:00:01' name='bob' ip='10.9.0.20'/>"), network.AffectConfig))
	live, _ := n.XML(false)
	config, _ := n.XML(true)
	if !strings.Contains(live, "alice") || !strings.Contains(live, "five") || strings.Contains(live, "10.9.0.30") {
		t.Errorf("live:\n%s", live)
	}
	if !strings.Contains(config, "bob") || strings.Contains(config, "five") || strings.Index(config, "10.9.0.30") > strings.Index(config, "10.9.0.2'") {
		t.Errorf("config:\n%s", config)
	}
	ok(t, n.Update(change(network.Delete, network.SectionDNSHost, "<host><hostname>five</hostname></host>"), network.AffectLive))
	if live, _ = n.XML(false); strings.Contains(live, "dns") {
		t.Errorf("an empty <dns> stays:\n%s", live)
	}
	ok(t, n.Destroy())
	if now, _ := n.XML(false); now != config {
		t.Errorf("after the stop:\n%s", now)
	}
}

// TestFailedUpdate: a change that the services cannot take is not there afterwards, for this process and the next.
func TestFailedUpdate(t *testing.T) {
	dir, host := t.TempDir(), &networktest.Fake{}
	m := openManager(t, host, dir)
	n, err := m.Define(natXML)
	ok(t, err)
	ok(t, n.Start())
	before, _ := n.XML(false)
	failed := false
	host.Fail = func(method, _ string) error {
		if method == "Serve" && !failed {
			failed = true
			host.Lose(n.UUID()) // the real one ends the old process first
			return errors.New("no luck")
		}
		return nil
	}
	change := network.Change{network.AddLast, network.SectionDNSHost, -1, "<host ip='10.9.0.5'><hostname>five</hostname></host>"}
	if err := n.Update(change, network.AffectLive|network.AffectConfig); err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("got %v", err)
	}
	if s, served := host.Served(n.UUID()); !served || len(s.DNS.Hosts) > 0 {
		t.Errorf("served %v: %+v", served, s.DNS)
	}
	next, err := openManager(t, host, dir).LookupByUUID(n.UUID())
	ok(t, err)
	for what, n := range map[string]*network.Network{"this": n, "the next": next} {
		for _, inactive := range []bool{false, true} {
			if now, err := n.XML(inactive); err != nil || now != before {
				t.Errorf("%s process, inactive %v: %v\n%s", what, inactive, err, now)
			}
		}
	}
}
