package daemon_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/network/dhcp"
	"virtd/rpc"
)

const networkXML = `<network>
  <name>lab</name>
  <uuid>33333333-4444-4555-8666-777777777777</uuid>
  <forward mode='nat'/>
  <mac address='52:54:00:00:00:01'/>
  <ip address='10.9.0.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='10.9.0.2' end='10.9.0.99'/>
    </dhcp>
  </ip>
</network>
`

// portXML is the port of a client.
const portXML = `<networkport>
  <uuid>99999999-2222-4333-8444-000000000001</uuid>
  <owner>
    <name>appliance</name>
    <uuid>aaaaaaaa-2222-4333-8444-000000000001</uuid>
  </owner>
  <mac address='52:54:00:00:01:01'/>
  <bandwidth>
    <inbound average='10' floor='200'/>
  </bandwidth>
</networkport>
`

// writeNetworks puts documents of networks and of a domain on one into the testbed's directory. The guest has had its lease
// for as long as the network is there.
func (b *testbed) writeNetworks(t testing.TB) {
	t.Helper()
	b.write(t, "net.xml", networkXML)
	b.write(t, "net-clash.xml", strings.Replace(networkXML, "33333333-", "44444444-", 1))
	b.write(t, "net-renamed.xml", strings.Replace(networkXML, ">lab<", ">other<", 1))
	b.write(t, "net-bridge.xml", "<network><name>host</name><forward mode='bridge'/><bridge name='br0'/></network>\n")
	b.write(t, "net-virtualport.xml", "<network><name>tap</name><forward mode='bridge'/><bridge name='br0'/><virtualport type='openvswitch'/></network>\n")
	b.write(t, "net-brief.xml", "<network><name>brief</name><uuid>55555555-4444-4555-8666-777777777777</uuid></network>\n")
	b.write(t, "net-limited.xml", "<network><name>limited</name><forward/><bandwidth><inbound average='1000'/></bandwidth></network>\n")
	b.write(t, "port.xml", portXML)
	b.write(t, "port-anonymous.xml", strings.Replace(portXML, "  <uuid>99999999-2222-4333-8444-000000000001</uuid>\n", "", 1))
	b.write(t, "port-plugged.xml", strings.Replace(portXML, "</networkport>", "<plug type='network' bridge='virbr0'/></networkport>", 1))
	b.write(t, "port-greedy.xml", strings.Replace(strings.Replace(portXML, "0001</uuid>", "0002</uuid>", 1), "200", "900", 1))
	demo, err := os.ReadFile(filepath.Join(b.dir, "demo.xml"))
	if err != nil {
		t.Fatal(err)
	}
	onLab := strings.NewReplacer("<interface type='bridge'>", "<interface type='network'>", "<source bridge='br0'/>", "<source network='lab'/>")
	b.write(t, "on-lab.xml", onLab.Replace(string(demo)))
	b.netHost.SetLeases(uuid.MustParse("33333333-4444-4555-8666-777777777777"), []dhcp.Lease{
		{IP: netip.MustParseAddr("10.9.0.20"), Bits: 24, MAC: "52:54:00:12:34:56", Name: "demo", ClientID: "01:52:54:00:12:34:56", Expires: time.Unix(2000000000, 0)},
		{IP: netip.MustParseAddr("10.9.0.21"), Bits: 24, MAC: "52:54:00:12:34:57"},
	})
}

// TestNetworkEvents: a client gets the events of the networks it asked for, in order.
func TestNetworkEvents(t *testing.T) {
	b := newTestbed(t)
	c := b.client(t, true)
	events := make(chan string, 100)
	c.OnEvent(func(_, procedure uint32, body []byte) {
		var m libvirt.NetworkEventLifecycleMsg
		if procedure != rpc.ProcNetworkEventLifecycle {
			t.Errorf("event %d", procedure)
		} else if err := rpc.Unmarshal(body, &m); err != nil {
			t.Error(err)
		}
		events <- fmt.Sprintf("%d %s %d", m.CallbackID, m.Net.Name, m.Event)
	})
	ctx := context.Background()
	for _, event := range []int32{0, 1} { // lifecycle, and changes of metadata
		args := &libvirt.ConnectNetworkEventRegisterAnyArgs{EventID: event}
		if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectNetworkEventRegisterAny, args, &libvirt.ConnectNetworkEventRegisterAnyRet{}); err != nil {
			t.Fatal(err)
		}
	}
	err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectNetworkEventRegisterAny, &libvirt.ConnectNetworkEventRegisterAnyArgs{EventID: 2}, &libvirt.ConnectNetworkEventRegisterAnyRet{})
	if err == nil || !strings.Contains(err.Error(), "unsupported event ID 2") {
		t.Error(err)
	}
	l := b.libvirt(t)
	n, err := l.NetworkDefineXML(networkXML)
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func(libvirt.Network) error{l.NetworkCreate, l.NetworkDestroy, l.NetworkUndefine} {
		if err := do(n); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"0 lab 0", "0 lab 2", "0 lab 3", "0 lab 1"} {
		select {
		case got := <-events:
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event, want %q", want)
		}
	}
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectNetworkEventDeregisterAny, &libvirt.ConnectNetworkEventDeregisterAnyArgs{CallbackID: 0}, nil); err != nil {
		t.Error(err)
	}
}

// TestNetworkPortParameters: a port's rates, and the refusal of a port that there is not.
func TestNetworkPortParameters(t *testing.T) {
	b := newTestbed(t)
	l := b.libvirt(t)
	n, err := l.NetworkCreateXML("<network><name>lab</name><forward/><ip address='10.9.0.1' prefix='24'/>" +
		"<portgroup name='limited' default='yes'><bandwidth><inbound average='1000' peak='5000' burst='64'/></bandwidth></portgroup></network>")
	if err != nil {
		t.Fatal(err)
	}
	b.writeXML(t)
	b.writeNetworks(t)
	text, err := os.ReadFile(filepath.Join(b.dir, "on-lab.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.DomainCreateXML(string(text), 0); err != nil {
		t.Fatal(err)
	}
	ports, _, err := l.NetworkListAllPorts(n, 1, 0)
	if err != nil || len(ports) != 1 {
		t.Fatalf("ports: %v, %v", ports, err)
	}
	params, count, err := l.NetworkPortGetParameters(ports[0], 0, 0)
	if err != nil || int(count) != len(params) {
		t.Fatalf("%d of %v, %v", count, params, err)
	}
	got := ""
	for _, p := range params {
		got += fmt.Sprintf("%s=%v ", p.Field, p.Value.I)
	}
	if want := "inbound.average=1000 inbound.peak=5000 inbound.burst=64 inbound.floor=0 outbound.average=0 outbound.peak=0 outbound.burst=0 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	ports[0].UUID[0]++
	if _, _, err := l.NetworkPortGetParameters(ports[0], 0, 0); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a port that is not there: %v", err)
	}
}
