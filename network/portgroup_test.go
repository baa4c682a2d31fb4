package network_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"virtd/network"
	"virtd/network/networktest"
	"virtd/network/portconf"
	"virtd/virterr"
)

const limitedXML = `<network><name>lab</name><forward/><bandwidth><inbound average='1000' peak='5000'/><outbound average='500'/></bandwidth>
<ip address='10.9.0.1' prefix='24'/>
<portgroup name='slow' default='yes'><bandwidth><inbound average='10'/></bandwidth></portgroup><portgroup name='fast'/></network>`

// TestPortGroups: an interface gets what it asks for, else what its port group has, else what the network has.
func TestPortGroups(t *testing.T) {
	m := openManager(t, &networktest.Fake{}, t.TempDir())
	_, err := m.Define(limitedXML)
	ok(t, err)
	_, err = m.Define(`<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/><vlan><tag id='5'/></vlan>
<portgroup name='six'><vlan trunk='yes'><tag id='6'/><tag id='7' nativeMode='untagged'/></vlan></portgroup></network>`)
	ok(t, err)
	owner := network.Owner{UUID: uuid.New()}
	connect := func(net, group string, limits portconf.Bandwidth, vlan portconf.VLAN) *network.Port {
		t.Helper()
		p, err := m.Connect(network.Request{Network: net, Group: group, MAC: "52:54:00:00:00:01", Owner: owner, Limits: limits, VLAN: vlan})
		ok(t, err)
		return p
	}
	ten, own := portconf.Bandwidth{In: portconf.Rate{Average: 10}}, portconf.Bandwidth{Out: portconf.Rate{Average: 7}}
	same(t, connect("lab", "", portconf.Bandwidth{}, portconf.VLAN{}).Limits, ten)
	same(t, connect("lab", "", own, portconf.VLAN{}).Limits, own)
	p := connect("lab", "fast", portconf.Bandwidth{}, portconf.VLAN{})
	same(t, p.Limits, portconf.Bandwidth{})
	_, err = m.Connect(network.Request{Network: "lab", Group: "none"})
	fails(t, err, "invalid argument: network 'lab' has no portgroup 'none'")
	_, err = m.Connect(network.Request{Network: "lab", VLAN: portconf.VLAN{Tags: []uint16{5}}})
	fails(t, err, "unsupported configuration: an interface connecting to network 'lab' is requesting a vlan tag, but that is not supported for this type of network")
	host := &networktest.Fake{}
	host.AddLink("br0")
	m = openManager(t, host, t.TempDir())
	_, err = m.Create(`<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/><vlan><tag id='5'/></vlan>
<portgroup name='six'><vlan trunk='yes'><tag id='6'/><tag id='7' nativeMode='untagged'/></vlan></portgroup></network>`)
	ok(t, err)
	same(t, connect("lan", "", portconf.Bandwidth{}, portconf.VLAN{}).VLAN, portconf.VLAN{Tags: []uint16{5}})
	same(t, connect("lan", "six", portconf.Bandwidth{}, portconf.VLAN{}).VLAN, portconf.VLAN{Tags: []uint16{6, 7}, Trunk: true, Native: 7})
	nine := portconf.VLAN{Tags: []uint16{9}}
	p = connect("lan", "six", own, nine)
	same(t, p.VLAN, nine)
	for _, want := range []string{"<group>six</group>", "<bandwidth>", "<outbound average='7'/>", "<tag id='9'/>"} {
		if !strings.Contains(p.XML(), want) {
			t.Errorf("no %s in\n%s", want, p.XML())
		}
	}
	_, err = m.Connect(network.Request{Network: "lan", MAC: "52:54:00:00:00:01", Owner: owner, Limits: portconf.Bandwidth{In: portconf.Rate{Floor: 5}}})
	fails(t, err, "Operation not supported: Invalid use of 'floor' on interface with MAC address 52:54:00:00:00:01 - 'floor' is only supported for "+
		"interface type 'network' with forward type 'nat', 'route', 'open' or none")
}

// TestLimitsRefused: what a network cannot have is refused, with libvirt's words where it has some.
func TestLimitsRefused(t *testing.T) {
	m := openManager(t, &networktest.Fake{}, t.TempDir())
	for text, says := range map[string]string{
		"<forward/><vlan><tag id='5'/></vlan>":                                                      "<vlan> element specified for network x, whose type doesn't support vlan configuration",
		"<forward/><portgroup name='a'><vlan><tag id='5'/></vlan></portgroup>":                      "<vlan> element specified for network x, whose type doesn't support vlan configuration",
		"<forward mode='bridge'/><bridge name='br0'/><bandwidth><inbound average='5'/></bandwidth>": "Unsupported network-wide <bandwidth> element in network x with forward mode='bridge'",
		"<bandwidth><inbound average='5' floor='1'/></bandwidth>":                                   "floor attribute is not supported for this config",
		"<bandwidth><inbound peak='5'/></bandwidth>":                                                "Missing mandatory average or floor attributes",
		"<portgroup/>": "Missing required name attribute in portgroup",
		"<portgroup name='a'/><portgroup name='a'/>":                             "multiple <portgroup> elements with the same name (a)",
		"<portgroup name='a' default='yes'/><portgroup name='b' default='yes'/>": "multiple default <portgroup> elements",
		"<portgroup name='a'><virtualport type='openvswitch'/></portgroup>":      "there are no Open vSwitch or 802.1Qbg ports",
		"<virtualport type='openvswitch'/>":                                      "there are no Open vSwitch or 802.1Qbg ports",
	} {
		if _, err := m.Define("<network><name>x</name>" + text + "</network>"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestFloors: rates are kept free as long as the network has them, for the time that an interface is there; the bridge knows
// them, also after a restart.
func TestFloors(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	m := openManager(t, host, dir)
	n, err := m.Define(limitedXML)
	ok(t, err)
	ok(t, n.Start())
	shape := func() string {
		for _, line := range host.State() {
			if strings.HasPrefix(line, "shapes ") {
				return line
			}
		}
		return ""
	}
	same(t, shape(), "shapes virbr0 in 1000 out 500")
	floor := func(mac string, rate uint64) (*network.Port, error) {
		return m.Connect(network.Request{Network: "lab", MAC: mac, Limits: portconf.Bandwidth{In: portconf.Rate{Average: 10, Floor: rate}}})
	}
	one, err := floor("52:54:00:00:00:01", 3000)
	ok(t, err)
	two, err := floor("52:54:00:00:00:02", 1000)
	ok(t, err)
	same(t, shape(), "shapes virbr0 in 1000 out 500 3:52:54:00:00:00:01=3000 4:52:54:00:00:00:02=1000")
	_, err = floor("52:54:00:00:00:03", 1001)
	fails(t, err, "Requested operation is not valid: Cannot plug '52:54:00:00:00:03' interface into 'virbr0' because new combined inbound floor=5001 would overcommit peak=5000 on network 'lab'")
	ok(t, m.Limit(one.UUID, portconf.Bandwidth{In: portconf.Rate{Floor: 4000}}))
	same(t, shape(), "shapes virbr0 in 1000 out 500 3:52:54:00:00:00:01=4000 4:52:54:00:00:00:02=1000")
	if err := m.Limit(one.UUID, portconf.Bandwidth{In: portconf.Rate{Floor: 4001}}); !virterr.Is(err, virterr.OperationInvalid) {
		t.Errorf("too much: %v", err)
	}
	m.Close()
	m = openManager(t, host, dir)
	same(t, shape(), "shapes virbr0 in 1000 out 500 3:52:54:00:00:00:01=4000 4:52:54:00:00:00:02=1000")
	ok(t, m.Disconnect(one.UUID))
	same(t, shape(), "shapes virbr0 in 1000 out 500 4:52:54:00:00:00:02=1000")
	three, err := floor("52:54:00:00:00:03", 1)
	ok(t, err)
	if three.Class != 3 {
		t.Errorf("class %d is not used again", three.Class)
	}
	host.Fail = func(method, _ string) error {
		if method == "Shape" {
			return errors.New("no tc")
		}
		return nil
	}
	if _, err := floor("52:54:00:00:00:04", 1); err == nil {
		t.Error("a floor that the kernel does not take is given")
	}
	host.Fail = nil
	n, err = m.LookupByName("lab")
	ok(t, err)
	if ports, err := n.Ports(); err != nil || len(ports) != 2 || slices.ContainsFunc(ports, func(p *network.Port) bool { return p.MAC == "52:54:00:00:00:04" }) {
		t.Errorf("ports %v, %v", ports, err)
	}
	_ = two
	ok(t, n.Destroy())
	same(t, shape(), "")
	plain, err := m.Create("<network><name>plain</name></network>")
	ok(t, err)
	_, err = m.Connect(network.Request{Network: plain.Name(), MAC: "52:54:00:00:00:05", Limits: portconf.Bandwidth{In: portconf.Rate{Floor: 1}}})
	fails(t, err, "Operation not supported: Invalid use of 'floor' on interface with MAC address 52:54:00:00:00:05 - network 'plain' has no inbound QoS set")
}

// TestUpdatePortGroup: port groups come, change and go while the network runs.
func TestUpdatePortGroup(t *testing.T) {
	m := openManager(t, &networktest.Fake{}, t.TempDir())
	n, err := m.Define(limitedXML)
	ok(t, err)
	ok(t, n.Start())
	do := func(c network.Command, xml string) error {
		return n.Update(network.Change{Command: c, Section: network.SectionPortGroup, Index: -1, XML: xml}, network.AffectLive|network.AffectConfig)
	}
	ok(t, do(network.AddLast, "<portgroup name='new'><bandwidth><outbound average='3'/></bandwidth></portgroup>"))
	p, err := m.Connect(network.Request{Network: "lab", Group: "new", MAC: "52:54:00:00:00:01"})
	ok(t, err)
	same(t, p.Limits.Out.Average, uint64(3))
	ok(t, do(network.Modify, "<portgroup name='new'/>"))
	fails(t, do(network.AddLast, "<portgroup name='new'/>"), "Requested operation is not valid: there is an existing portgroup entry in network 'lab' that matches \"<portgroup name='new'>\"")
	fails(t, do(network.AddLast, "<portgroup name='other' default='yes'/>"),
		"Requested operation is not valid: a different portgroup entry in network 'lab' is already set as the default. Only one default is allowed.")
	ok(t, do(network.Delete, "<portgroup name='new'/>"))
	for _, c := range []network.Command{network.Delete, network.Modify} {
		fails(t, do(c, "<portgroup name='new'/>"), "Requested operation is not valid: couldn't find a portgroup entry in network 'lab' matching <portgroup name='new'>")
	}
	text, err := n.XML(true)
	ok(t, err)
	if strings.Contains(text, "new") || strings.Count(text, "<portgroup") != 2 {
		t.Error(text)
	}
}
