package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"virtd/domain/xmltree"
	"virtd/network/bridge"
)

// wire is a bridge with a guest that is filtered and a neighbour that is not, each at a tap whose other end is the test.
type wire struct {
	t           *testing.T
	guests      Guests
	guest, next *bridge.Tap
	mark        uint16
}

var (
	guestMAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	nextMAC  = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	otherMAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 9}
)

func newWire(t *testing.T) *wire {
	t.Helper()
	inNamespace(t)
	h := &bridge.Host{}
	if err := h.AddBridge(bridge.BridgeConfig{Name: "br0"}); err != nil {
		t.Skipf("needs bridges: %v", err)
	}
	w := &wire{t: t}
	for _, tap := range []struct {
		to   **bridge.Tap
		name string
		mac  net.HardwareAddr
	}{{&w.guest, "a_guest", guestMAC}, {&w.next, "guest", nextMAC}} { // one name is the end of the other
		opened, err := h.OpenTap(bridge.TapConfig{Name: tap.name, Bridge: "br0", MAC: tap.mac, Owner: -1})
		if err != nil {
			t.Skipf("needs taps: %v", err)
		}
		t.Cleanup(opened.Close)
		*tap.to = opened
	}
	return w
}

func (w *wire) set(text string) {
	w.t.Helper()
	if err := w.guests.Set(w.guest.Name, w.filter(text)); err != nil {
		w.t.Fatal(err)
	}
}

// filter reads a <filterref>.
func (w *wire) filter(text string) *Filter {
	w.t.Helper()
	f, err := readFilter(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func readFilter(text string) (*Filter, error) {
	doc, err := xmltree.Parse([]byte("<interface><mac address='" + guestMAC.String() + "'/>" + text + "</interface>"))
	if err != nil {
		return nil, err
	}
	return ReadFilter(doc.Root)
}

// passes sends a frame from one tap and reports whether it comes out of the other. Every frame has a mark of its own at its end.
func (w *wire) passes(from, to *bridge.Tap, frame []byte) bool {
	w.t.Helper()
	w.mark++
	frame = binary.BigEndian.AppendUint16(slices.Clone(frame), w.mark)
	want := frame
	if len(frame) < 60 {
		frame = append(frame, make([]byte, 60-len(frame))...)
	}
	write := func(f []byte) {
		if _, err := unix.Write(int(from.Files[0].Fd()), append(make([]byte, bridge.VnetHeaderSize), f...)); err != nil {
			w.t.Fatal(err)
		}
	}
	write(frame)
	return w.comes(to, want)
}

// comes waits for a frame that begins so. Bridges forward in the sender's context, so what passes is there at once.
func (w *wire) comes(at *bridge.Tap, want []byte) bool {
	buf := make([]byte, 4096)
	for {
		fds := []unix.PollFd{{Fd: int32(at.Files[0].Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return false
		}
		size, err := unix.Read(int(at.Files[0].Fd()), buf)
		if err != nil {
			w.t.Fatal(err)
		}
		if bytes.HasPrefix(buf[bridge.VnetHeaderSize:size], want) {
			return true
		}
	}
}

func (w *wire) expect(what string, frame []byte, want bool) {
	w.t.Helper()
	if got := w.passes(w.guest, w.next, frame); got != want {
		w.t.Errorf("%s passes: %v, want %v", what, got, want)
	}
}

func (w *wire) expectIn(what string, frame []byte, want bool) {
	w.t.Helper()
	if got := w.passes(w.next, w.guest, frame); got != want {
		w.t.Errorf("to the guest, %s passes: %v, want %v", what, got, want)
	}
}

func ether(to, from net.HardwareAddr, kind uint16, payload ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(slices.Concat(to, from), kind), payload...)
}

func ip4(from, to string, proto byte, payload ...byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)+2)) // and the mark
	copy(b[12:], netip.MustParseAddr(from).AsSlice())
	copy(b[16:], netip.MustParseAddr(to).AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	return append(b, payload...)
}

func udp(from, to uint16, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	return append(binary.BigEndian.AppendUint16(b, uint16(10+len(payload))), append([]byte{0, 0}, payload...)...)
}

func arp(op byte, sha net.HardwareAddr, spa string, tpa string) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, sha, netip.MustParseAddr(spa).AsSlice(), make([]byte, 6), netip.MustParseAddr(tpa).AsSlice())
}

// offer is an answer of a DHCP server.
func offer(to net.HardwareAddr, address string) []byte {
	b := make([]byte, 240)
	b[0] = 2
	copy(b[16:], netip.MustParseAddr(address).AsSlice())
	copy(b[28:], to)
	return udp(67, 68, b...)
}

// TestCleanTraffic: with an address that the document gives, what is right passes and everything that is spoofed is dropped.
func TestCleanTraffic(t *testing.T) {
	for _, name := range []string{"clean-traffic", "clear-traffic"} {
		w := newWire(t)
		w.expect("a spoofed frame without a filter", ether(nextMAC, otherMAC, etherIPv4, ip4("10.9.0.66", "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)...), true)
		w.set("<filterref filter='" + name + "'><parameter name='IP' value='10.9.0.5'/></filterref>")
		good := ether(nextMAC, guestMAC, etherIPv4, ip4("10.9.0.5", "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)...)
		w.expect("IPv4 from the right address", good, true)
		w.expect("IPv4 with another's IP", ether(nextMAC, guestMAC, etherIPv4, ip4("10.9.0.66", "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)...), false)
		w.expect("IPv4 with another's MAC", ether(nextMAC, otherMAC, etherIPv4, ip4("10.9.0.5", "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)...), false)
		w.expect("a DHCP request", ether(broadcastMAC, guestMAC, etherIPv4, ip4("0.0.0.0", "255.255.255.255", unix.IPPROTO_UDP, udp(68, 67)...)...), true)
		w.expect("TCP from 0.0.0.0", ether(nextMAC, guestMAC, etherIPv4, ip4("0.0.0.0", "10.9.0.2", unix.IPPROTO_TCP, make([]byte, 20)...)...), false)
		w.expect("ARP of its own", ether(broadcastMAC, guestMAC, etherARP, arp(1, guestMAC, "10.9.0.5", "10.9.0.2")...), true)
		w.expect("an ARP probe", ether(broadcastMAC, guestMAC, etherARP, arp(1, guestMAC, "0.0.0.0", "10.9.0.5")...), true)
		w.expect("ARP for another's IP", ether(broadcastMAC, guestMAC, etherARP, arp(2, guestMAC, "10.9.0.2", "10.9.0.2")...), false)
		w.expect("ARP with another's MAC", ether(broadcastMAC, guestMAC, etherARP, arp(1, otherMAC, "10.9.0.5", "10.9.0.2")...), false)
		w.expect("ARP from another's MAC", ether(broadcastMAC, otherMAC, etherARP, arp(1, guestMAC, "10.9.0.5", "10.9.0.2")...), false)
		w.expect("IPv6", ether(nextMAC, guestMAC, etherIPv6, make([]byte, 40)...), false)
		w.expect("another protocol", ether(nextMAC, guestMAC, 0x88b5, 1, 2, 3), false)
		w.expect("a VLAN of its own", ether(nextMAC, guestMAC, 0x8100, append([]byte{0, 5}, good[12:]...)...), true)
		w.expect("a spoofed address in a VLAN", ether(nextMAC, guestMAC, 0x8100,
			slices.Concat([]byte{0, 5, 8, 0}, ip4("10.9.0.66", "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...))...), false)
		announce := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 3}, guestMAC, make([]byte, 4), guestMAC, make([]byte, 4))
		w.expect("the announcement of a migrated guest", ether(broadcastMAC, guestMAC, etherRARP, announce...), true)
		w.expect("RARP for another", ether(broadcastMAC, guestMAC, etherRARP,
			slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 3}, otherMAC, make([]byte, 4), otherMAC, make([]byte, 4))...), false)
		w.expectIn("IPv4", ether(guestMAC, nextMAC, etherIPv4, ip4("10.9.0.2", "10.9.0.5", unix.IPPROTO_UDP, udp(1, 2)...)...), true)
		w.expectIn("ARP", ether(broadcastMAC, nextMAC, etherARP, arp(1, nextMAC, "10.9.0.2", "10.9.0.5")...), true)
		w.expectIn("IPv6", ether(guestMAC, nextMAC, etherIPv6, make([]byte, 40)...), false)
		w.set("<filterref filter='no-mac-spoofing'/>") // in place of the other
		w.expect("another protocol after the change", ether(nextMAC, guestMAC, 0x88b5, 1, 2, 3), true)
		w.expect("another's MAC after the change", ether(nextMAC, otherMAC, 0x88b5, 1, 2, 3), false)
		if err := w.guests.Remove(w.guest.Name); err != nil {
			t.Fatal(err)
		}
		w.expect("another's MAC after the end", ether(nextMAC, otherMAC, 0x88b5, 1, 2, 3), true)
		if c, err := nftables.New(); err != nil {
			t.Fatal(err)
		} else if list, err := c.ListTables(); err != nil || len(list) != 0 {
			t.Errorf("tables left: %v, %v", list, err)
		}
	}
}

// TestTruncated: a frame that is too short for the field that is checked is no right one.
func TestTruncated(t *testing.T) {
	w := newWire(t)
	w.set("<filterref filter='no-arp-spoofing'/>")
	short := ether(broadcastMAC, guestMAC, etherARP, 0, 1, 8, 0, 6, 4, 0, 1)
	if _, err := unix.Write(int(w.guest.Files[0].Fd()), append(make([]byte, bridge.VnetHeaderSize), short...)); err != nil {
		t.Fatal(err)
	}
	if w.comes(w.next, short) {
		t.Error("half an ARP message passes")
	}
}

// TestLearnedAddress: without a word about the address the first that the guest uses is its own; by DHCP it is what it was
// leased, in an answer to itself.
func TestLearnedAddress(t *testing.T) {
	w := newWire(t)
	from := func(ip string) []byte {
		return ether(nextMAC, guestMAC, etherIPv4, ip4(ip, "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)...)
	}
	w.set("<filterref filter='clean-traffic'/>")
	w.expect("an address of nobody", from("127.0.0.1"), false)
	w.expect("a multicast source", from("224.0.0.5"), false)
	w.expect("the first address", from("10.9.0.7"), true)
	w.expect("a second one", from("10.9.0.8"), false)
	w.expect("ARP for a second one", ether(broadcastMAC, guestMAC, etherARP, arp(1, guestMAC, "10.9.0.8", "10.9.0.2")...), false)
	w.expect("the first again", from("10.9.0.7"), true)
	var after Guests // as the next virtd does
	after.Keep(w.guest.Name, w.filter("<filterref filter='clean-traffic'/>"))
	if err := after.Restore(); err != nil {
		t.Fatal(err)
	}
	w.expect("a second one after a restart", from("10.9.0.8"), false)

	w.set("<filterref filter='clean-traffic'><parameter name='CTRL_IP_LEARNING' value='dhcp'/><parameter name='DHCPSERVER' value='10.9.0.1'/></filterref>")
	w.expect("an address before the lease", from("10.9.0.9"), false)
	answer := func(server, ip string, to net.HardwareAddr) []byte {
		return ether(guestMAC, nextMAC, etherIPv4, ip4(server, "255.255.255.255", unix.IPPROTO_UDP, offer(to, ip)...)...)
	}
	w.expectIn("another guest's lease", answer("10.9.0.1", "10.9.0.9", otherMAC), true)
	w.expect("another guest's address", from("10.9.0.9"), false)
	w.expectIn("a lease of another server", answer("10.9.0.3", "10.9.0.9", guestMAC), true)
	w.expect("an address of another server", from("10.9.0.9"), false)
	w.expectIn("the lease", answer("10.9.0.1", "10.9.0.9", guestMAC), true)
	w.expect("the leased address", from("10.9.0.9"), true)
	w.expect("another one", from("10.9.0.10"), false)
	var none Guests // a virtd whose domains ended meanwhile
	if err := none.Restore(); err != nil {
		t.Fatal(err)
	}
	w.expect("another one when the domain is gone", from("10.9.0.10"), true)
}

// TestCleanTrafficGateway: the guest talks with its gateway, asks everybody for addresses by ARP, and that is all.
func TestCleanTrafficGateway(t *testing.T) {
	w := newWire(t)
	w.set("<filterref filter='clean-traffic-gateway'><parameter name='IP' value='10.9.0.5'/><parameter name='GATEWAY_MAC' value='" + nextMAC.String() + "'/></filterref>")
	packet := ip4("10.9.0.5", "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)
	w.expect("IPv4 to the gateway", ether(nextMAC, guestMAC, etherIPv4, packet...), true)
	w.expect("IPv4 to another", ether(otherMAC, guestMAC, etherIPv4, packet...), false)
	w.expect("IPv4 to everybody", ether(broadcastMAC, guestMAC, etherIPv4, packet...), false)
	w.expect("a stolen address to the gateway", ether(nextMAC, guestMAC, etherIPv4, ip4("10.9.0.6", "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)...), false)
	w.expect("ARP", ether(broadcastMAC, guestMAC, etherARP, arp(1, guestMAC, "10.9.0.5", "10.9.0.2")...), true)
	w.expectIn("IPv4 from the gateway", ether(guestMAC, nextMAC, etherIPv4, ip4("10.9.0.2", "10.9.0.5", unix.IPPROTO_UDP, udp(1, 2)...)...), true)
	w.expectIn("IPv4 from another", ether(guestMAC, otherMAC, etherIPv4, ip4("10.9.0.2", "10.9.0.5", unix.IPPROTO_UDP, udp(1, 2)...)...), false)
}

// TestStandardFilters: what each of the other filters stops and lets through, and that the kernel takes them all.
func TestStandardFilters(t *testing.T) {
	w := newWire(t)
	for _, name := range FilterNames() {
		w.set("<filterref filter='" + name + "'><parameter name='IPV6' value='fd00::5'/><parameter name='DHCPSERVER' value='10.9.0.1'/>" +
			"<parameter name='DHCPSERVER' value='fd00::1'/><parameter name='GATEWAY_MAC' value='52:54:00:00:00:09'/></filterref>")
	}
	six := func(from string) []byte {
		b := make([]byte, 40)
		b[0], b[5], b[6], b[7] = 0x60, 2, 59, 64
		copy(b[8:], netip.MustParseAddr(from).AsSlice())
		copy(b[24:], netip.MustParseAddr("fd00::2").AsSlice())
		return ether(nextMAC, guestMAC, etherIPv6, b...)
	}
	w.set("<filterref filter='no-ipv6-spoofing'><parameter name='IPV6' value='fd00::5'/></filterref>")
	w.expect("its IPv6 address", six("fd00::5"), true)
	w.expect("a link-local one", six("fe80::1234"), true)
	w.expect("another's", six("fd00::6"), false)
	w.set("<filterref filter='no-ip-multicast'/>")
	w.expect("multicast", ether(nextMAC, guestMAC, etherIPv4, ip4("10.9.0.5", "239.1.2.3", unix.IPPROTO_UDP, udp(1, 2)...)...), false)
	w.expect("unicast", ether(nextMAC, guestMAC, etherIPv4, ip4("10.9.0.5", "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)...), true)
	w.set("<filterref filter='no-mac-broadcast'/>")
	w.expect("broadcast", ether(broadcastMAC, guestMAC, etherIPv4, ip4("10.9.0.5", "10.9.0.255", unix.IPPROTO_UDP, udp(1, 2)...)...), false)
}

// TestFilterErrors: texts of refused filters.
func TestFilterErrors(t *testing.T) {
	for text, says := range map[string]string{
		"<filterref filter='mine'/>":                  "referenced filter 'mine' is missing",
		"<filterref filter='no-ipv6-spoofing'/>":      "unresolvable variables or unavailable list elements: IPV6",
		"<filterref filter='clean-traffic-gateway'/>": "unresolvable variables or unavailable list elements: GATEWAY_MAC",
		"<filterref filter='clean-traffic-gateway'><parameter name='GATEWAY_MAC' value='52:54'/></filterref>":                 "GATEWAY_MAC of filter 'clean-traffic-gateway' is not a MAC address: '52:54'",
		"<filterref filter='allow-dhcp-server'/>":                                                                             "unavailable list elements: DHCPSERVER",
		"<filterref filter='clean-traffic'><parameter name='CTRL_IP_LEARNING' value='none'/></filterref>":                     "unavailable list elements: IP ",
		"<filterref filter='clean-traffic'><parameter name='CTRL_IP_LEARNING' value='x'/></filterref>":                        "any, dhcp or none",
		"<filterref filter='clean-traffic'><parameter name='IP' value='fd00::1'/></filterref>":                                "not an address",
		"<filterref filter='clean-traffic'><parameter name='MAC' value='52:54:00:00:00:07'/></filterref>":                     "always the interface's own address",
		"<filterref filter='c'>" + strings.Repeat("<parameter name='IP' value='10.0.0.1'/>", 65) + "</filterref>":             "referenced filter 'c' is missing",
		"<filterref filter='clean-traffic'>" + strings.Repeat("<parameter name='IP' value='10.0.0.1'/>", 65) + "</filterref>": "more than 64 values of IP",
	} {
		if _, err := readFilter(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if f, err := readFilter(""); f != nil || err != nil {
		t.Errorf("no filter: %v, %v", f, err)
	}
}

// TestGuestsRestored: whatever somebody takes away of the filters of guests is there again within a second, and what was learned
// stays learned where only rules went.
func TestGuestsRestored(t *testing.T) {
	w := newWire(t)
	w.set("<filterref filter='clean-traffic'/>")
	from := func(ip string) []byte {
		return ether(nextMAC, guestMAC, etherIPv4, ip4(ip, "10.9.0.2", unix.IPPROTO_UDP, udp(1, 2)...)...)
	}
	w.expect("the first address", from("10.9.0.5"), true)
	restored := make(chan error, 10)
	watching(t, func(ctx context.Context) error {
		return Tables("").Watch(ctx, nftables.TableFamilyBridge, func() {
			if made, err := w.guests.Repair(); made > 0 || err != nil {
				restored <- err
			}
		})
	})
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := w.guests.table()
	taps := mapElement(w.guest.Name, fromChain(w.guest.Name))
	for _, part := range []struct {
		name   string
		remove func() error
	}{
		{"the rules", func() error { c.FlushTable(table); return nil }},
		{"what all share", func() error { c.FlushChain(&nftables.Chain{Table: table, Name: chainIngress}); return nil }},
		{"a check", func() error {
			c.FlushChain(&nftables.Chain{Table: table, Name: chainName("ip", w.guest.Name)})
			return nil
		}},
		{"the map's element", func() error { return c.SetDeleteElements(verdictMap(table, mapFrom), taps) }},
		{"everything", func() error { c.FlushRuleset(); return nil }},
	} {
		if err := errors.Join(part.remove(), c.Flush()); err != nil {
			t.Fatalf("%s: %v", part.name, err)
		}
		select {
		case err := <-restored:
			if err != nil {
				t.Fatalf("%s: %v", part.name, err)
			}
		case <-time.After(time.Second + settleTime):
			t.Fatalf("%s: not restored", part.name)
		}
		w.expect("IPv4 from the right address, after "+part.name, from("10.9.0.5"), true)
		w.expect("IPv4 with another's, after "+part.name, from("10.9.0.66"), false)
	}
	w.set("<filterref filter='clean-traffic'/>") // a change of virtd's own
	select {
	case <-restored:
		t.Error("virtd's own change counts as a loss")
	case <-time.After(2 * settleTime):
	}
}
