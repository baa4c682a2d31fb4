package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

func small6() Config {
	return Config{
		Server: netip.MustParsePrefix("fd00::1/64"), Resolver: true, Domain: "lab.example", ID: uuid.MustParse("11111111-2222-4333-8444-00000000000a"),
		Ranges: []Range{{First: netip.MustParseAddr("fd00::10"), Last: netip.MustParseAddr("fd00::13")}},
		Hosts: []Host{
			{ID: "0:3:0:1:52:54:0:0:0:64", Name: "static", IP: netip.MustParseAddr("fd00::50"), Lease: -1},
			{Name: "named", IP: netip.MustParseAddr("fd00::51")},
		},
	}
}

var server6ID = &dhcpv6.DUIDUUID{UUID: uuid.MustParse("11111111-2222-4333-8444-00000000000a")}

func duid(n int) dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{0x52, 0x54, 0, 0, 0, byte(n)}}
}

// message makes a message of guest n about an interface, with the address that it wants or has, "" for none.
func message(kind dhcpv6.MessageType, n int, address string, more ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, byte(n)}}
	m.AddOption(dhcpv6.OptClientID(duid(n)))
	ia := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 7}}
	if address != "" {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(address)})
	}
	m.AddOption(ia)
	for _, o := range more {
		m.AddOption(o)
	}
	return m
}

var toServer = dhcpv6.OptServerID(server6ID)

// ask6 sends a message and returns the answer, or nil.
func (b *bed) ask6(m *dhcpv6.Message) *dhcpv6.Message {
	b.t.Helper()
	reply, _ := b.s.Handle6(m.ToBytes(), netip.MustParseAddr("fe80::1234"))
	ok(b.t, b.j.Sync())
	if reply == nil {
		return nil
	}
	out, err := dhcpv6.MessageFromBytes(reply)
	ok(b.t, err)
	if out.TransactionID != m.TransactionID {
		b.t.Errorf("answer to another question: %s", out.Summary())
	}
	return out
}

// given tells what an answer gives: its addresses with their lifetimes in seconds, and its status.
func given(m *dhcpv6.Message) string {
	if m == nil {
		return "nothing"
	}
	out := m.MessageType.String()
	for _, ia := range m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			out += fmt.Sprintf(" %s for %d", a.IPv6Addr, a.ValidLifetime/time.Second)
		}
		if s := ia.Options.Status(); s != nil {
			out += " " + s.StatusCode.String()
		}
	}
	if s := m.Options.Status(); s != nil {
		out += " " + s.StatusCode.String()
	}
	return out
}

// join6 goes through a whole exchange and returns the address.
func (b *bed) join6(n int, more ...dhcpv6.Option) string {
	b.t.Helper()
	adv := b.ask6(message(dhcpv6.MessageTypeSolicit, n, "", more...))
	if adv == nil || adv.Options.OneIANA() == nil || adv.Options.OneIANA().Options.OneAddress() == nil {
		return ""
	}
	ip := adv.Options.OneIANA().Options.OneAddress().IPv6Addr.String()
	reply := b.ask6(message(dhcpv6.MessageTypeRequest, n, ip, append(more, toServer)...))
	if got := given(reply); got != "REPLY "+ip+" for 3600" && got != "REPLY "+ip+" for 4294967295" {
		b.t.Errorf("guest %d was offered %s: %s", n, ip, got)
	}
	return ip
}

// TestExchange6: a guest gets an address with what it needs, renews it, lets it go, and finds it again after a restart.
func TestExchange6(t *testing.T) {
	b := newBed(t, small6())
	name := &dhcpv6.OptFQDN{DomainName: labels("web.example.org")}
	ip := b.join6(1, name)
	if !b.s.inRange(netip.MustParseAddr(ip)) {
		t.Fatalf("address %q", ip)
	}
	if a, ok := b.s.LookupName("web"); !ok || a.String() != ip {
		t.Errorf("name: %s, %v", a, ok)
	}
	lease := b.s.Leases()[0]
	if lease.MAC != mac(1) || lease.ClientID != "00:03:00:01:52:54:00:00:00:01" || lease.IAID != 7 || lease.Bits != 64 || lease.Name != "web" {
		t.Errorf("lease %+v", lease)
	}
	renew := b.ask6(message(dhcpv6.MessageTypeRenew, 1, ip, toServer, name))
	if got := given(renew); got != "REPLY "+ip+" for 3600" {
		t.Errorf("renewal: %s", got)
	}
	if dns, search := renew.Options.DNS(), renew.Options.DomainSearchList(); len(dns) != 1 || dns[0].String() != "fd00::1" || search.Labels[0] != "lab.example" {
		t.Errorf("options %v %v", dns, search)
	}
	if ia := renew.Options.OneIANA(); ia.T1 != 30*time.Minute || ia.T2 != 48*time.Minute {
		t.Errorf("times %s %s", ia.T1, ia.T2)
	}
	b.s = New(small6(), b.j, b.j.Leases(), b.s.now)
	if got := given(b.ask6(message(dhcpv6.MessageTypeRebind, 1, ip))); got != "REPLY "+ip+" for 3600" {
		t.Errorf("after a restart: %s", got)
	}
	for what, c := range map[string]struct {
		m    *dhcpv6.Message
		want string
	}{
		"address of another":    {message(dhcpv6.MessageTypeRequest, 9, ip, toServer), ""},
		"confirm here":          {message(dhcpv6.MessageTypeConfirm, 1, ip), "REPLY Success"},
		"confirm elsewhere":     {message(dhcpv6.MessageTypeConfirm, 1, "fd77::5"), "REPLY NotOnLink"},
		"confirm nothing":       {message(dhcpv6.MessageTypeConfirm, 1, ""), "nothing"},
		"another server":        {message(dhcpv6.MessageTypeRequest, 1, ip, dhcpv6.OptServerID(duid(200))), "nothing"},
		"no server":             {message(dhcpv6.MessageTypeRenew, 1, ip), "nothing"},
		"solicit with a server": {message(dhcpv6.MessageTypeSolicit, 1, "", toServer), "nothing"},
		"a reply":               {message(dhcpv6.MessageTypeReply, 1, "", toServer), "nothing"},
		"rapid":                 {message(dhcpv6.MessageTypeSolicit, 1, "", &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit}), "REPLY " + ip + " for 3600"},
	} {
		got := given(b.ask6(c.m))
		if c.want != "" && got != c.want || c.want == "" && (got == "nothing" || b.s.byIP[netip.MustParseAddr(ip)].client != clientKey6(lease.ClientID, 7)) {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
	moved := given(b.ask6(message(dhcpv6.MessageTypeRenew, 3, "fd77::5", toServer)))
	if len(moved) < 20 || moved[len(moved)-len(" fd77::5 for 0"):] != " fd77::5 for 0" {
		t.Errorf("an address of another network: %s", moved)
	}
	info := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeInformationRequest, TransactionID: dhcpv6.TransactionID{9}}
	if got := b.ask6(info); got == nil || len(got.Options.DNS()) != 1 {
		t.Errorf("information: %v", got)
	}
	if got := given(b.ask6(message(dhcpv6.MessageTypeRelease, 1, ip, toServer))); got != "REPLY Success" {
		t.Errorf("release: %s", got)
	}
	for _, l := range b.j.Leases() {
		if l.IP.String() == ip {
			t.Error("the journal still has a lease that was released")
		}
	}
}

// TestStatic6: hosts by identifier and by name have their addresses, whoever else asks for them.
func TestStatic6(t *testing.T) {
	b := newBed(t, small6())
	if ip := b.join6(100); ip != "fd00::50" {
		t.Errorf("by identifier: %s", ip)
	}
	if ip := b.join6(2, &dhcpv6.OptFQDN{DomainName: labels("Named")}); ip != "fd00::51" {
		t.Errorf("by name: %s", ip)
	}
	if got := given(b.ask6(message(dhcpv6.MessageTypeRequest, 3, "fd00::50", toServer))); got == "REPLY fd00::50 for 3600" || got == "nothing" {
		t.Errorf("a thief: %s", got)
	}
	if ip, ok := b.s.LookupName("static"); !ok || ip.String() != "fd00::50" {
		t.Errorf("name %s", ip)
	}
}

// TestFull6: when no address is left that is said, an address that is declined is not given again at once, and offers that
// nobody took give way.
func TestFull6(t *testing.T) {
	b := newBed(t, small6())
	seen := map[string]bool{}
	for n := 1; n <= 4; n++ {
		seen[b.join6(n)] = true
	}
	if len(seen) != 4 {
		t.Errorf("addresses %v", seen)
	}
	if got := given(b.ask6(message(dhcpv6.MessageTypeSolicit, 5, ""))); got != "ADVERTISE NoAddrsAvail NoAddrsAvail" {
		t.Errorf("full: %s", got)
	}
	if got := given(b.ask6(message(dhcpv6.MessageTypeRequest, 5, "", toServer))); got != "REPLY NoAddrsAvail" {
		t.Errorf("full: %s", got)
	}
	ip := b.s.byClient[clientKey6("00:03:00:01:52:54:00:00:00:01", 7)].IP.String()
	b.ask6(message(dhcpv6.MessageTypeDecline, 1, ip, toServer))
	if got := b.join6(1); got != "" {
		t.Errorf("after a decline: %s", got)
	}
	b.now = b.now.Add(2 * time.Hour)
	for n := 10; n < 100; n++ { // a flood that never takes what it is offered
		if b.ask6(message(dhcpv6.MessageTypeSolicit, n, "")) == nil {
			t.Fatal("no answer in a flood")
		}
	}
	if b.join6(1) == "" {
		t.Error("a flood keeps a guest out")
	}
	if len(b.s.byIP) > 6 {
		t.Errorf("%d addresses remembered", len(b.s.byIP))
	}
}

func FuzzHandle6(f *testing.F) {
	for kind := range dhcpv6.MessageType(14) {
		f.Add(message(kind, int(kind), "fd00::12", toServer).ToBytes())
		f.Add(message(kind, int(kind), "fd00::12").ToBytes())
	}
	f.Add([]byte{1, 0, 0, 1, 0, 1, 0, 0})
	b := newBed(f, small6())
	f.Fuzz(func(t *testing.T, data []byte) {
		reply, _ := b.s.Handle6(data, netip.MustParseAddr("fe80::1"))
		ok(t, b.j.Sync())
		b.now = b.now.Add(time.Second)
		if reply != nil {
			if _, err := dhcpv6.MessageFromBytes(reply); err != nil {
				t.Errorf("the answer cannot be read: %v", err)
			}
			if len(reply) > 1232 {
				t.Errorf("an answer of %d bytes does not fit into a packet", len(reply))
			}
		}
		if len(b.s.byIP) > 6 || len(b.s.byClient) > 6 || len(b.s.byName) > 6 {
			t.Errorf("%d addresses, %d clients, %d names remembered", len(b.s.byIP), len(b.s.byClient), len(b.s.byName))
		}
	})
}

func labels(name string) *rfc1035label.Labels { return &rfc1035label.Labels{Labels: []string{name}} }
