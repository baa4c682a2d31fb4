package firewall

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Mode is what packets between a network and the world may do.
type Mode string

// Modes; networks that filter nothing are not given to Apply.
const (
	Isolated Mode = "isolated"
	Routed   Mode = "route"
	NAT      Mode = "nat"
)

// Network is what the rules have to know of one network.
type Network struct {
	Bridge  string
	Mode    Mode
	Device  string         // packets to and from the world pass this link only; "" for any
	Subnets []netip.Prefix // of both families
	NATIPv6 bool           // IPv6 is translated too; else it is routed
	// Sources are the first and last address to translate to; invalid: that of the link by which a packet leaves.
	Sources [2]netip.Addr
	Ports   [2]uint16 // of translated TCP and UDP
}

// The chains of the table.
const (
	chainForward = "forward" // of the forward hook: asks the next three
	chainCross   = "cross"   // within one network
	chainToGuest = "to_guest"
	chainToWorld = "from_guest"
	chainNAT     = "postrouting"
)

// rules are those of all networks, by chain. A packet from one network to another has to please both: what to_guest lets pass
// returns, and is decided by from_guest. The order and the conditions are libvirt's.
func rules(networks []Network) []rule {
	out := []rule{
		inChain(chainForward).jump(chainCross), inChain(chainForward).jump(chainToGuest), inChain(chainForward).jump(chainToWorld),
	}
	for _, n := range networks {
		out = append(out, inChain(chainCross).in(n.Bridge).out(n.Bridge).verdict("accept"))
	}
	for _, n := range networks {
		out = append(out, n.toGuest()...)
	}
	for _, n := range networks {
		out = append(out, n.fromGuest()...)
	}
	for _, n := range networks {
		out = append(out, n.translation()...)
	}
	return out
}

// translated reports whether addresses of a subnet are hidden from the world.
func (n Network) translated(s netip.Prefix) bool {
	return n.Mode == NAT && (s.Addr().Is4() || n.NATIPv6)
}

func (n Network) toGuest() []rule {
	var out []rule
	for _, s := range n.Subnets {
		if n.Mode == Isolated {
			break
		}
		r := inChain(chainToGuest).in(n.Device).out(n.Bridge).daddr(s, true)
		if n.translated(s) {
			r = r.established() // nobody can begin to talk with a guest
		}
		out = append(out, r.verdict("return"))
	}
	return append(out, inChain(chainToGuest).out(n.Bridge).reject())
}

func (n Network) fromGuest() []rule {
	var out []rule
	for _, s := range n.Subnets {
		if n.Mode == Isolated {
			break
		}
		out = append(out, inChain(chainToWorld).in(n.Bridge).out(n.Device).saddr(s).verdict("accept"))
	}
	return append(out, inChain(chainToWorld).in(n.Bridge).reject())
}

// local are destinations that never leave the network, so that packets to them keep their source: a DHCP request that is
// broadcast would else come from a port that the server does not answer.
var local = map[bool][]netip.Prefix{
	false: {netip.MustParsePrefix("224.0.0.0/24"), netip.MustParsePrefix("255.255.255.255/32")},
	true:  {netip.MustParsePrefix("ff02::/16")},
}

func (n Network) translation() []rule {
	var out []rule
	for _, s := range n.Subnets {
		if !n.translated(s) {
			continue
		}
		for _, l := range local[s.Addr().Is6()] {
			out = append(out, inChain(chainNAT).saddr(s).daddr(l, true).verdict("return"))
		}
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, 0} {
			r := inChain(chainNAT).out(n.Device).saddr(s).daddr(s, false).protocol(proto)
			ports := n.Ports
			if proto == 0 {
				ports = [2]uint16{}
			}
			if n.Sources[0].IsValid() && s.Addr().Is4() {
				r = r.snat(n.Sources, ports)
			} else {
				r = r.masquerade(ports)
			}
			out = append(out, r)
		}
	}
	return out
}

// String prints a rule as nft does, more or less, after the name of its chain.
func (r rule) String() string { return fmt.Sprintf("%s: %s", r.chain, r.text) }
