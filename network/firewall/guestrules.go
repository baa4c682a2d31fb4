package firewall

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// EtherTypes that filters know (IEEE 802; the last is what libvirt's filter has in place of RARP's).
const (
	etherIPv4  = 0x0800
	etherARP   = 0x0806
	etherRARP  = 0x8035
	etherIPv6  = 0x86dd
	etherOddly = 0x0835
)

// Offsets and lengths of fields in bytes: of Ethernet's header, ARP's (RFC 826) and DHCP's, which counts from UDP's (RFC 2131).
const (
	macDestination, macSource         = 0, 6
	arpOperation, arpSHA, arpSPA      = 6, 8, 14
	arpTHA                            = 18
	dhcpOperation, dhcpYourIP, dhcpHW = 8, 24, 36
)

// guestChains are the rules of one interface: by chain of its own, of which from and to are asked first.
type guestChains struct {
	f        *Filter
	tap      string
	mac      net.HardwareAddr
	from, to []rule
	checks   []rule // of the chains that from jumps to
}

// Chains and the set of an interface are named by what they are for, and by its tap.
func fromChain(tap string) string          { return chainName("from", tap) }
func toChain(tap string) string            { return chainName("to", tap) }
func learnedSet(tap string) string         { return chainName("addresses", tap) }
func chainName(purpose, tap string) string { return purpose + "_" + tap }

// tapOf is the other way round; "" for what no tap has.
func tapOf(name string) string {
	_, tap, _ := strings.Cut(name, "_")
	return tap
}

// guestRules are all rules of a tap's filter.
func guestRules(f *Filter, tap string) []rule {
	g := &guestChains{f: f, tap: tap}
	g.mac, _ = net.ParseMAC(f.MAC) // complete has seen to that
	if f.learns() && f.Learn == learnDHCP {
		g.to = append(g.to, g.learnLease()...)
	}
	for _, s := range f.steps() {
		g.step(s.kind)
	}
	return append(append(g.from, g.to...), g.checks...)
}

func (g *guestChains) step(kind stepKind) {
	out, in := inChain(fromChain(g.tap)), inChain(toChain(g.tap))
	both := func(f func(rule) rule) {
		g.from, g.to = append(g.from, f(out)), append(g.to, f(in))
	}
	accept := func(ether uint16) func(rule) rule {
		return func(r rule) rule { return r.ether(ether).verdict("accept") }
	}
	switch kind {
	case checkMAC:
		g.check("mac", out, inChain("").mac("saddr", macSource, g.mac))
	case checkIP:
		g.checkIP(out)
	case checkIPv6:
		g.checkIPv6(out)
	case checkARPMAC:
		g.check("arpmac", out.ether(etherARP), inChain("").network("arp saddr ether "+g.f.MAC, arpSHA, g.mac))
	case checkARPIP:
		g.checkARPIP(out)
	case dropMulticast:
		g.from = append(g.from, out.ether(etherIPv4).masked("ip daddr 224.0.0.0/4", destination4, []byte{0xf0}, []byte{0xe0}).verdict("drop"))
	case dropMulticast6:
		g.from = append(g.from, out.ether(etherIPv6).network("ip6 daddr ff00::/8", destination6, []byte{0xff}).verdict("drop"))
	case dropBroadcast:
		g.from = append(g.from, out.ether(etherIPv4).mac("daddr", macDestination, broadcastMAC).verdict("drop"))
	case dropRARP:
		both(func(r rule) rule { return r.ether(etherRARP).verdict("drop") })
	case dropAll:
		both(func(r rule) rule { return r.verdict("drop") })
	case acceptARP:
		both(accept(etherARP))
	case acceptIPv4:
		both(accept(etherIPv4))
	case acceptIPv6:
		both(accept(etherIPv6))
	case acceptIPv4In:
		g.to = append(g.to, accept(etherIPv4)(in))
	case acceptIPv6In:
		g.to = append(g.to, accept(etherIPv6)(in))
	case allowDHCP, allowDHCPServer:
		g.allowDHCP(out, in, kind == allowDHCPServer)
	case allowDHCPv6, allowDHCPv6Server:
		g.allowDHCPv6(out, in, kind == allowDHCPv6Server)
	case announce:
		both(func(r rule) rule {
			return r.ether(etherRARP).mac("saddr", macSource, g.mac).mac("daddr", macDestination, broadcastMAC).
				network("operation reverse request", arpOperation, []byte{0, 3}).network("sender "+g.f.MAC, arpSHA, g.mac).
				network("target "+g.f.MAC, arpTHA, g.mac).verdict("accept")
		})
	case acceptGateway:
		for _, gateway := range g.f.Gateways {
			mac, _ := net.ParseMAC(gateway) // parameter has seen to that
			g.from = append(g.from, out.mac("daddr", macDestination, mac).verdict("accept"))
			g.to = append(g.to, in.mac("saddr", macSource, mac).verdict("accept"))
		}
	case announceOdd:
		g.from = append(g.from, out.ether(etherOddly).verdict("accept"))
	}
}

// check makes a chain that drops everything but the packets that some condition is true for. A condition that cannot be told,
// because the packet is too short for the field, is not true.
func (g *guestChains) check(what string, which rule, good ...rule) {
	name := chainName(what, g.tap)
	g.from = append(g.from, which.jump(name))
	for _, r := range good {
		r.chain = name
		g.checks = append(g.checks, r.verdict("return"))
	}
	g.checks = append(g.checks, inChain(name).verdict("drop"))
}

// checkIP lets through the guest's own addresses, and the question of one that has none yet.
func (g *guestChains) checkIP(out rule) {
	good := []rule{inChain("").network("ip saddr 0.0.0.0", source4, make([]byte, 4)).network("protocol udp", 9, []byte{unix.IPPROTO_UDP})}
	for _, a := range g.f.IP {
		good = append(good, inChain("").network("ip saddr "+a.String(), source4, a.AsSlice()))
	}
	g.check("ip", out.ether(etherIPv4), append(good, g.learned("ip saddr", source4)...)...)
}

func (g *guestChains) checkARPIP(out rule) {
	good := []rule{inChain("").network("arp saddr ip 0.0.0.0", arpSPA, make([]byte, 4))} // a probe (RFC 5227)
	for _, a := range g.f.IP {
		good = append(good, inChain("").network("arp saddr ip "+a.String(), arpSPA, a.AsSlice()))
	}
	g.check("arpip", out.ether(etherARP), append(good, g.learned("arp saddr ip", arpSPA)...)...)
}

// learned are the conditions for addresses that nobody said: that it is one that was learned, and, where the first one counts,
// that there is room for it. Addresses that no guest can have are not learned.
func (g *guestChains) learned(text string, offset uint32) []rule {
	if !g.f.learns() {
		return nil
	}
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
	set := learnedSet(g.tap)
	out := []rule{inChain("").add(text+" is learned", load, &expr.Lookup{SourceRegister: 1, SetName: set})}
	if g.f.Learn != learnAny {
		return out
	}
	r := inChain("")
	for _, not := range []struct{ bits, first byte }{{0xff, 0}, {0xff, 127}, {0xe0, 0xe0}} { // this network, loopback, multicast and beyond
		r = r.add("", &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{not.bits}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{not.first}})
	}
	return append(out, r.add(text+" is a host's, learn it", load, &expr.Dynset{SrcRegKey: 1, SetName: set, Operation: uint32(unix.NFT_DYNSET_OP_ADD)}))
}

// learnLease notes the addresses that DHCP servers give to this guest. It decides nothing.
func (g *guestChains) learnLease() []rule {
	base := inChain(toChain(g.tap)).ether(etherIPv4).network("protocol udp", 9, []byte{unix.IPPROTO_UDP}).
		transport("ports 67 to 68", 0, []byte{0, 67, 0, 68}).transport("bootp reply", dhcpOperation, []byte{2}).
		transport("for "+g.f.MAC, dhcpHW, g.mac)
	list := []rule{base}
	if len(g.f.DHCPServers) > 0 {
		list = nil
		for _, a := range g.f.DHCPServers {
			if a.Is4() {
				list = append(list, base.network("ip saddr "+a.String(), source4, a.AsSlice()))
			}
		}
	}
	for i := range list {
		list[i] = list[i].add("learn the address",
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: dhcpYourIP, Len: 4},
			&expr.Dynset{SrcRegKey: 1, SetName: learnedSet(g.tap), Operation: uint32(unix.NFT_DYNSET_OP_ADD)})
	}
	return list
}

func (g *guestChains) checkIPv6(out rule) {
	good := []rule{
		inChain("").network("ip6 saddr ::", source6, make([]byte, 16)), // a probe (RFC 4862, 5.4.2)
		inChain("").masked("ip6 saddr fe80::/10", source6, []byte{0xff, 0xc0}, []byte{0xfe, 0x80}),
	}
	for _, a := range g.f.IPv6 {
		good = append(good, inChain("").network("ip6 saddr "+a.String(), source6, a.AsSlice()))
	}
	g.check("ip6", out.ether(etherIPv6), good...)
}

func (g *guestChains) allowDHCP(out, in rule, ofServers bool) {
	udp := func(r rule, text string, ports ...byte) rule {
		return r.ether(etherIPv4).network("protocol udp", 9, []byte{unix.IPPROTO_UDP}).transport(text, 0, ports)
	}
	g.from = append(g.from, udp(out, "ports 68 to 67", 0, 68, 0, 67).network("ip saddr 0.0.0.0", source4, make([]byte, 4)).
		network("ip daddr 255.255.255.255", destination4, []byte{255, 255, 255, 255}).verdict("accept"))
	answer := udp(in, "ports 67 to 68", 0, 67, 0, 68)
	g.to = append(g.to, g.ofServers(answer, ofServers, false)...)
}

func (g *guestChains) allowDHCPv6(out, in rule, ofServers bool) {
	multicast := netip.MustParseAddr("ff02::1:2")
	udp := func(r rule) rule { return r.ether(etherIPv6).network("next header udp", 6, []byte{unix.IPPROTO_UDP}) }
	g.from = append(g.from, udp(out).masked("ip6 saddr fe80::/10", source6, []byte{0xff, 0xc0}, []byte{0xfe, 0x80}).
		network("ip6 daddr "+multicast.String(), destination6, multicast.AsSlice()).transport("ports 546 to 547", 0, []byte{0x02, 0x22, 0x02, 0x23}).verdict("accept"))
	answer := udp(in).transport("ports 547 to 546", 0, []byte{0x02, 0x23, 0x02, 0x22})
	if !ofServers {
		answer = answer.masked("ip6 saddr fe80::/10", source6, []byte{0xff, 0xc0}, []byte{0xfe, 0x80})
	}
	g.to = append(g.to, g.ofServers(answer, ofServers, true)...)
}

// ofServers lets answers through: all, or those of the servers that were named.
func (g *guestChains) ofServers(answer rule, named, six bool) []rule {
	if !named {
		return []rule{answer.verdict("accept")}
	}
	var out []rule
	for _, a := range g.f.DHCPServers {
		switch {
		case a.Is6() != six:
		case six:
			out = append(out, answer.network("ip6 saddr "+a.String(), source6, a.AsSlice()).verdict("accept"))
		default:
			out = append(out, answer.network("ip saddr "+a.String(), source4, a.AsSlice()).verdict("accept"))
		}
	}
	return out
}

var broadcastMAC = net.HardwareAddr(bytes.Repeat([]byte{0xff}, 6))

// Conditions on frames.

func (r rule) ether(kind uint16) rule {
	name := map[uint16]string{etherIPv4: "ip", etherARP: "arp", etherRARP: "rarp", etherIPv6: "ip6", etherOddly: "0x835"}[kind]
	return r.add("ether type "+name, &expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1}, equal(binary.BigEndian.AppendUint16(nil, kind)))
}

func (r rule) mac(name string, offset uint32, mac net.HardwareAddr) rule {
	return r.field("ether "+name+" "+mac.String(), expr.PayloadBaseLLHeader, offset, mac)
}

func (r rule) network(text string, offset uint32, want []byte) rule {
	return r.field(text, expr.PayloadBaseNetworkHeader, offset, want)
}

func (r rule) transport(text string, offset uint32, want []byte) rule {
	return r.field(text, expr.PayloadBaseTransportHeader, offset, want)
}

func (r rule) field(text string, base expr.PayloadBase, offset uint32, want []byte) rule {
	return r.add(text, &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(want))}, equal(want))
}

// masked compares some bits of a field of the network header.
func (r rule) masked(text string, offset uint32, mask, want []byte) rule {
	n := uint32(len(want))
	return r.add(text, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n)}, equal(want))
}
