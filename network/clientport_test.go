package network_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"virtd/network"
	"virtd/network/networktest"
	"virtd/network/portconf"
	"virtd/virterr"
)

const ownerXML = "<owner><name>own</name><uuid>aaaaaaaa-2222-4333-8444-000000000001</uuid></owner>"

// portXML is a client's document of its n-th port.
func portXML(n, inside string) string {
	return "<networkport><uuid>99999999-2222-4333-8444-00000000000" + n + "</uuid>" + ownerXML + "<mac address='52:54:00:00:01:0" + n + "'/>" + inside + "</networkport>"
}

func started(t *testing.T, m *network.Manager, text string) *network.Network {
	t.Helper()
	n, err := m.Define(text)
	ok(t, err)
	ok(t, n.Start())
	return n
}

// shapes is what the bridges' rates are.
func shapes(host *networktest.Fake) string {
	var out []string
	for _, line := range host.State() {
		if strings.HasPrefix(line, "shapes ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, ", ")
}

// TestClientPort: a client's port is there until the client removes it or its network stops, also for the next virtd, whose domains
// do not have it.
func TestClientPort(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	m := openManager(t, host, dir)
	n, err := m.Define(strings.Replace(natXML, "<forward/>", "<forward/><port isolated='yes'/><portgroup name='g'/>", 1))
	ok(t, err)
	_, err = n.CreatePort(portXML("1", ""), 0)
	fails(t, err, "Requested operation is not valid: network 'nat' is not active")
	ok(t, n.Start())
	p, err := n.CreatePort(portXML("1", "<group>g</group><rxfilters trustGuest='yes'/>"), 0)
	ok(t, err)
	want := "<networkport>\n  <uuid>99999999-2222-4333-8444-000000000001</uuid>\n  <owner>\n    <name>own</name>\n    <uuid>aaaaaaaa-2222-4333-8444-000000000001</uuid>\n" +
		"  </owner>\n  <group>g</group>\n  <mac address='52:54:00:00:01:01'/>\n  <port isolated='yes'/>\n  <rxfilters trustGuest='yes'/>\n" +
		"  <plug type='network' bridge='virbr0'/>\n</networkport>\n"
	same(t, p.XML(), want)
	_, err = n.CreatePort(portXML("1", ""), 0)
	fails(t, err, "Network port with UUID 99999999-2222-4333-8444-000000000001 already exists")
	if !virterr.Is(err, virterr.NetworkPortExist) {
		t.Errorf("code %d", virterr.As(err).Code)
	}
	open, err := n.CreatePort(portXML("2", "<port isolated='no'/>"), 0)
	ok(t, err)
	if open.Isolated {
		t.Error("a port that is not to be isolated is")
	}
	made, err := n.CreatePort(strings.Replace(portXML("3", ""), "<uuid>99999999-2222-4333-8444-000000000003</uuid>", "", 1), 0)
	ok(t, err)
	if made.UUID == uuid.Nil {
		t.Error("a port without a UUID")
	}

	m = reopen(t, m, host, dir)
	m.Retain(map[uuid.UUID]bool{})
	n, err = m.LookupByName("nat")
	ok(t, err)
	again, err := n.Port(p.UUID)
	ok(t, err)
	same(t, again.XML(), want)
	_, err = n.CreatePort(portXML("1", ""), 0)
	fails(t, err, "Network port with UUID 99999999-2222-4333-8444-000000000001 already exists")
	ok(t, n.DeletePort(p.UUID))
	fails(t, n.DeletePort(p.UUID), "network port not found: Network port with UUID 99999999-2222-4333-8444-000000000001 does not exist")
	ports, err := n.Ports()
	ok(t, err)
	if len(ports) != 2 {
		t.Errorf("%d ports", len(ports))
	}
	ok(t, n.Destroy())
	ok(t, n.Start())
	ports, err = n.Ports()
	ok(t, err)
	if files, _ := filepath.Glob(filepath.Join(dir, "run/ports/*")); len(ports) != 0 || len(files) != 0 {
		t.Errorf("after the network's stop: %v, %v", ports, files)
	}
}

// TestClientPortOfKilledStop: a virtd that was killed while it stopped a network leaves no port of a client to the next.
func TestClientPortOfKilledStop(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	m := openManager(t, host, dir)
	n := started(t, m, natXML)
	_, err := n.CreatePort(portXML("1", ""), 0)
	ok(t, err)
	brief, err := m.Create("<network><name>brief</name></network>")
	ok(t, err)
	_, err = brief.CreatePort(portXML("2", ""), 0)
	ok(t, err)
	for _, id := range []uuid.UUID{n.UUID(), brief.UUID()} {
		ok(t, os.Remove(filepath.Join(dir, "run", id.String()+".xml")))
	}
	m = reopen(t, m, &networktest.Fake{}, dir)
	n, err = m.LookupByName("nat")
	ok(t, err)
	ok(t, n.Start())
	if ports, err := n.Ports(); err != nil || len(ports) != 0 {
		t.Errorf("%v, %v", ports, err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "run/ports/*")); len(files) != 0 {
		t.Errorf("records %v are left", files)
	}
}

// TestClientPortAndDomains: clients and domains do not take from each other, and each removes its own.
func TestClientPortAndDomains(t *testing.T) {
	m := openManager(t, &networktest.Fake{}, t.TempDir())
	n := started(t, m, natXML)
	mine, err := m.Connect(network.Request{Network: "nat", MAC: "52:54:00:00:01:01", Owner: network.Owner{Name: "d", UUID: uuid.New()}})
	ok(t, err)
	_, err = n.CreatePort(portXML("1", ""), 0)
	fails(t, err, "Requested operation is not valid: MAC address 52:54:00:00:01:01 is in use on network 'nat' by domain 'd'; give each domain one of its own")
	fails(t, n.DeletePort(mine.UUID), "Requested operation is not valid: port "+mine.UUID.String()+
		" of network 'nat' is in use by domain 'd': it goes when the interface is detached or the domain ends")
	_, err = n.CreatePort(portXML("2", ""), 0)
	ok(t, err)
	_, err = m.Connect(network.Request{Network: "nat", MAC: "52:54:00:00:01:02", Owner: network.Owner{Name: "e", UUID: uuid.New()}})
	fails(t, err, "Requested operation is not valid: MAC address 52:54:00:00:01:02 is in use on network 'nat' by "+
		"port 99999999-2222-4333-8444-000000000002 of 'own'; give each domain one of its own")
	other, err := m.Create("<network><name>other</name></network>")
	ok(t, err)
	if err := other.DeletePort(uuid.MustParse("99999999-2222-4333-8444-000000000002")); !virterr.Is(err, virterr.NoNetworkPort) {
		t.Errorf("a port of another network: %v", err)
	}
	_, err = other.CreatePort(portXML("2", ""), 0)
	fails(t, err, "Network port with UUID 99999999-2222-4333-8444-000000000002 already exists")
}

// TestClientPortFloor: a client's floor is kept free on the bridge, as long as the network has it, changes and ends with the port.
func TestClientPortFloor(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	m := openManager(t, host, dir)
	n := started(t, m, limitedXML)
	p, err := n.CreatePort(portXML("1", "<bandwidth><inbound average='10' floor='3000'/></bandwidth>"), 0)
	ok(t, err)
	same(t, shapes(host), "shapes virbr0 in 1000 out 500 3:52:54:00:00:01:01=3000")
	const over = "Requested operation is not valid: Cannot plug '52:54:00:00:01:02' interface into 'virbr0' because new combined inbound floor=5001 would overcommit peak=5000 on network 'lab'"
	_, err = n.CreatePort(portXML("2", "<bandwidth><inbound floor='2001'/></bandwidth>"), 0)
	fails(t, err, over)
	second, err := n.CreatePort(portXML("2", "<bandwidth><inbound average='7'/><outbound average='8'/></bandwidth>"), 0)
	ok(t, err)
	fails(t, n.LimitPort(second.UUID, portconf.Bandwidth{In: portconf.Rate{Floor: 2001}}), over)
	contains(t, second.XML(), "<inbound average='7'/>", "<outbound average='8'/>")
	ok(t, n.LimitPort(second.UUID, portconf.Bandwidth{In: portconf.Rate{Average: 9, Floor: 2000}}))
	same(t, shapes(host), "shapes virbr0 in 1000 out 500 3:52:54:00:00:01:01=3000 4:52:54:00:00:01:02=2000")
	host.Fail = func(method, _ string) error {
		if method == "Shape" {
			return errors.New("no tc")
		}
		return nil
	}
	if err := n.LimitPort(p.UUID, portconf.Bandwidth{In: portconf.Rate{Floor: 1}}); err == nil || !strings.Contains(err.Error(), "no tc") {
		t.Errorf("a change that the kernel refuses: %v", err)
	}
	host.Fail = nil
	m = reopen(t, m, host, dir)
	n, err = m.LookupByName("lab")
	ok(t, err)
	same(t, shapes(host), "shapes virbr0 in 1000 out 500 3:52:54:00:00:01:01=3000 4:52:54:00:00:01:02=2000")
	ok(t, n.DeletePort(p.UUID))
	same(t, shapes(host), "shapes virbr0 in 1000 out 500 4:52:54:00:00:01:02=2000")
	if err := n.LimitPort(p.UUID, portconf.Bandwidth{}); !virterr.Is(err, virterr.NoNetworkPort) {
		t.Errorf("a port that is gone: %v", err)
	}
	ok(t, n.LimitPort(second.UUID, portconf.Bandwidth{}))
	same(t, shapes(host), "shapes virbr0 in 1000 out 500")
}

// TestClientPortReclaim: a port that a client has already is noted where it says, if the network has that and nobody else does.
func TestClientPortReclaim(t *testing.T) {
	host := &networktest.Fake{}
	host.SetFunctions("enp1s0", vf(0x10, 0), vf(0x10, 2))
	for _, link := range []string{"br0", "eth5", "eth6"} {
		host.AddLink(link)
	}
	m := openManager(t, host, t.TempDir())
	nets := map[string]*network.Network{"nat": started(t, m, natXML), "vfs": started(t, m, vfPoolXML),
		"lent":   started(t, m, "<network><name>lent</name><forward mode='bridge'/><bridge name='br0'/></network>"),
		"direct": started(t, m, "<network><name>direct</name><forward mode='passthrough'><interface dev='eth5'/><interface dev='eth6'/></forward></network>"),
	}
	function := "<plug type='hostdev-pci' managed='no'><driver name='vfio'/><address domain='0x0000' bus='0x01' slot='0x10' function='0x2'/></plug>"
	host.SetFunctionBusy(vf(0x10, 2), errors.New("PCI device 0000:01:10.2 is in use")) // by the client
	for i, c := range []struct {
		net, plug string
		flags     network.PortFlags
		want      string // error; "": the plug is printed
	}{
		{"nat", "", network.PortReclaim, "invalid argument: Port reclaim requested but plug type is none"},
		{"nat", "<plug type='none'/>", network.PortReclaim, "invalid argument: Port reclaim requested but plug type is none"},
		{"nat", "<plug type='network' bridge='virbr0'/>", 0, "invalid argument: Port reclaim not requested but plug type is not none"},
		{"nat", "<plug type='network' bridge='virbr0'/>", network.PortReclaim | network.PortValidate, ""},
		{"nat", "<plug type='network' bridge='virbr7'/>", network.PortReclaim, "is on bridge 'virbr7', but network 'nat' is on 'virbr0'"},
		{"nat", "<plug type='bridge' bridge='virbr0'/>", network.PortReclaim, "has a plug of type 'bridge', but ports of network 'nat' are of type 'network'"},
		{"vfs", "<plug type='network' bridge='virbr0'/>", network.PortReclaim, "ports of network 'vfs' are of type 'hostdev-pci'"},
		{"lent", "<plug type='bridge' bridge='br0'/>", network.PortReclaim, ""},
		{"direct", "<plug type='direct' dev='eth6' mode='passthrough'/>", network.PortReclaim, ""},
		{"direct", "<plug type='direct' dev='eth6' mode='passthrough'/>", network.PortReclaim, "network 'direct' requires exclusive access to interfaces"},
		{"direct", "<plug type='direct' dev='eth5' mode='vepa'/>", network.PortReclaim, "is of mode 'vepa', but network 'direct' has mode 'passthrough'"},
		{"direct", "<plug type='direct' dev='eth9'/>", network.PortReclaim, "network 'direct' doesn't have dev='eth9' in use by network port"},
		{"direct", "<port isolated='yes'/>", 0, "<port isolated='yes'/> is not supported for network interfaces with type='direct'"},
		{"vfs", function, network.PortReclaim, ""},
		{"vfs", function, network.PortReclaim, "network 'vfs' claims the PCI device at domain=0 bus=1 slot=16 function=2 is already in use by a different network port (port "},
		{"vfs", strings.Replace(function, "0x10", "0x11", 1), network.PortReclaim, "network 'vfs' doesn't have PCI device 0000:01:11.2 in use by network port"},
	} {
		text := portXML("0", c.plug)
		text = strings.NewReplacer("99999999-2222-4333-8444-000000000000", uuid.New().String(), "01:00'", "02:0"+string("0123456789abcdef"[i])+"'").Replace(text)
		p, err := nets[c.net].CreatePort(text, c.flags)
		switch {
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s %s: %v, want %q", c.net, c.plug, err, c.want)
		case c.want == "" && err != nil:
			t.Errorf("%s %s: %v", c.net, c.plug, err)
		case c.want == "":
			got := strings.ReplaceAll(p.XML(), "\n", "")
			if !strings.Contains(strings.ReplaceAll(got, "  ", ""), c.plug) {
				t.Errorf("%s is printed as %s", c.plug, got)
			}
		}
	}
}

// TestClientPortFunction: a client gets a function of a pool for itself, and gives it back.
func TestClientPortFunction(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	host.SetFunctions("enp1s0", vf(0x10, 0))
	m := openManager(t, host, dir)
	n := started(t, m, vfPoolXML)
	_, err := n.CreatePort(portXML("1", "<bandwidth><inbound average='5'/></bandwidth>"), 0)
	fails(t, err, "unsupported configuration: interface 52:54:00:00:01:01 - bandwidth settings are not supported for hostdev interfaces (network 'vfs')")
	p, err := n.CreatePort(portXML("1", "<group>red</group>"), 0)
	ok(t, err)
	contains(t, p.XML(), "<plug type='hostdev-pci' managed='yes'>", "<address domain='0x0000' bus='0x01' slot='0x10' function='0x0'/>", "<tag id='42'/>")
	m = reopen(t, m, host, dir)
	m.Retain(nil)
	_, err = m.Connect(request("vfs", "d"))
	fails(t, err, "internal error: network 'vfs' requires exclusive access to interfaces, but none are available: all 1 devices are in use "+
		"(0000:01:10.0 is with port 99999999-2222-4333-8444-000000000001 of 'own')")
	n, err = m.LookupByName("vfs")
	ok(t, err)
	err = n.LimitPort(p.UUID, portconf.Bandwidth{In: portconf.Rate{Average: 5}})
	fails(t, err, "unsupported configuration: bandwidth settings are not supported for port 99999999-2222-4333-8444-000000000001: its plug is of type 'hostdev-pci'")
	ok(t, n.DeletePort(p.UUID))
	_, err = m.Connect(request("vfs", "d"))
	ok(t, err)
}

// TestClientPortAtOnce: of many that make one port, and then remove it, one does.
func TestClientPortAtOnce(t *testing.T) {
	m := openManager(t, &networktest.Fake{}, t.TempDir())
	n := started(t, m, natXML)
	once := func(what string, do func() error) {
		var wg sync.WaitGroup
		done := make(chan bool, 16)
		for range cap(done) {
			wg.Go(func() {
				if do() == nil {
					done <- true
				}
			})
		}
		wg.Wait()
		if len(done) != 1 {
			t.Errorf("%s %d times", what, len(done))
		}
	}
	once("made", func() error { _, err := n.CreatePort(portXML("1", ""), 0); return err })
	once("removed", func() error { return n.DeletePort(uuid.MustParse("99999999-2222-4333-8444-000000000001")) })
}

// TestBadPorts: a document that is none of a port is refused, saying what and where.
func TestBadPorts(t *testing.T) {
	m := openManager(t, &networktest.Fake{}, t.TempDir())
	n := started(t, m, natXML)
	whole := portXML("1", "<port/>")
	for _, c := range []struct {
		old, with string
		code      virterr.Code
		says      string
	}{
		{whole, "", virterr.XMLError, ""},
		{whole, "<network/>", virterr.XMLError, "unexpected root element <network>, expecting <networkport>"},
		{whole, "<networkport/>", virterr.InternalError, "network port has no owner name"},
		{ownerXML, "<owner><name>own</name></owner>", virterr.InternalError, "network port has no owner UUID"},
		{"aaaaaaaa-", "a", virterr.InternalError, "Unable to parse UUID 'a2222-4333-8444-000000000001'"},
		{"99999999-", "9", virterr.InternalError, "Unable to parse UUID '92222-4333-8444-000000000001'"},
		{"<mac address='52:54:00:00:01:01'/>", "", virterr.InternalError, "network port has no mac"},
		{"52:54:00:00:01:01", "52:54", virterr.InternalError, "Unable to parse MAC '52:54'"},
		{"52:54:00:00:01:01", "52:54:00:00:01:01:00:00", virterr.InternalError, "Unable to parse MAC"},
		{"52:54:00:00:01:01", "01:54:00:00:01:01", virterr.XMLError, "expected unicast mac address"},
		{"<port/>", "<gizmo/>", virterr.ConfigUnsupported, "<gizmo> in <networkport> is not supported"},
		{"<port/>", "<port isolated='maybe'/>", virterr.XMLError, "isolated='maybe' must be yes or no"},
		{"<port/>", "<rxfilters trustGuest='1'/>", virterr.XMLError, "trustGuest='1' must be yes or no"},
		{"<port/>", "<virtualport type='openvswitch'/>", virterr.ConfigUnsupported, "there are no Open vSwitch or 802.1Qbg ports"},
		{"<port/>", "<bandwidth><inbound/></bandwidth>", virterr.XMLError, "Missing mandatory average or floor attributes"},
		{"<port/>", "<bandwidth><inbound floor='5'/></bandwidth>", virterr.OperationUnsupported, "network 'nat' has no inbound QoS set"},
		{"<port/>", "<vlan><tag id='5'/></vlan>", virterr.ConfigUnsupported, "is requesting a vlan tag"},
		{"<port/>", "<vlan/>", virterr.XMLError, "missing tag id"},
		{"<port/>", "<group>none</group>", virterr.InvalidArg, "network 'nat' has no portgroup 'none'"},
		{"<port/>", "<plug type='odd'/>", virterr.XMLError, "Invalid value for attribute 'type' in element 'plug': 'odd'"},
		{"<port/>", "<plug bridge='virbr0'/>", virterr.XMLError, "attribute bridge='virbr0' does not belong to a plug of type ''"},
		{"<port/>", "<plug type='network'/>", virterr.XMLError, "Missing network port bridge name"},
		{"<port/>", "<plug type='network' bridge='virbr0' dev='eth0'/>", virterr.XMLError, "attribute dev='eth0' does not belong to a plug of type 'network'"},
		{"<port/>", "<plug type='bridge' bridge='br0' macTableManager='libvirt'/>", virterr.ConfigUnsupported, "the kernel does it"},
		{"<port/>", "<plug type='direct'/>", virterr.XMLError, "Missing network port link device name"},
		{"<port/>", "<plug type='direct' dev='eth0'><driver/></plug>", virterr.XMLError, "<driver> does not belong to a plug of type 'direct'"},
		{"<port/>", "<plug type='hostdev-pci'/>", virterr.XMLError, "Missing network port PCI address"},
		{"<port/>", "<plug type='hostdev-pci' managed='so'/>", virterr.XMLError, "managed='so' must be yes or no"},
		{"<port/>", "<plug type='hostdev-pci'><address bus='0x100'/></plug>", virterr.XMLError, "Invalid PCI address"},
		{"<port/>", "<plug type='hostdev-pci'><driver name='kvm'/><address bus='1'/></plug>", virterr.ConfigUnsupported, "the driver is vfio"},
	} {
		_, err := n.CreatePort(strings.Replace(whole, c.old, c.with, 1), 0)
		if err == nil || !virterr.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q for %q: %v, want code %d and %q", c.with, c.old, err, c.code, c.says)
		}
	}
	_, err := n.CreatePort(strings.Replace(whole, "<uuid>99999999-2222-4333-8444-000000000001</uuid>", "", 1), network.PortValidate)
	if !virterr.Is(err, virterr.XMLInvalidSchema) {
		t.Errorf("without a UUID, to be validated: %v", err)
	}
	if ports, err := n.Ports(); err != nil || len(ports) != 0 {
		t.Errorf("%d ports are left, %v", len(ports), err)
	}
}

// FuzzPort: no document makes the manager panic, and a port reads back as itself.
func FuzzPort(f *testing.F) {
	host := &networktest.Fake{}
	host.SetFunctions("enp1s0", vf(0x10, 0))
	host.AddLink("eth5")
	m := openManager(f, host, f.TempDir())
	var nets []*network.Network
	for _, text := range []string{limitedXML, vfPoolXML, "<network><name>direct</name><forward mode='vepa'><interface dev='eth5'/></forward></network>"} {
		n, err := m.Create(text)
		if err != nil {
			f.Fatal(err)
		}
		nets = append(nets, n)
	}
	for _, inside := range []string{
		"", "<group>red</group><port isolated='no'/>", "<rxfilters trustGuest='yes'/><vlan><tag id='3'/></vlan>",
		"<bandwidth><inbound average='1' peak='2' burst='3' floor='4'/><outbound average='5'/></bandwidth>",
		"<plug type='network' bridge='virbr0'/>", "<plug type='direct' dev='eth5' mode='vepa'/>",
		"<plug type='hostdev-pci' managed='no'><driver name='vfio'/><address domain='0' bus='1' slot='16' function='0'/></plug>",
	} {
		f.Add(portXML("1", inside), uint32(0))
		f.Add(portXML("1", inside), uint32(network.PortReclaim))
	}
	f.Fuzz(func(t *testing.T, text string, flags uint32) {
		for _, n := range nets {
			p, err := n.CreatePort(text, network.PortFlags(flags))
			if err != nil {
				continue
			}
			first := p.XML()
			ok(t, n.DeletePort(p.UUID))
			p, err = n.CreatePort(first, network.PortReclaim|network.PortValidate)
			if err != nil {
				t.Errorf("does not read back: %v\n%s", err, first)
				continue
			}
			same(t, p.XML(), first)
			ok(t, n.DeletePort(p.UUID))
		}
	})
}
