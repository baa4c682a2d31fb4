package rss

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/unix"
)

// Window is how many bytes of a packet, from its Ethernet header on, Sum looks at: an Ethernet header with two VLAN tags, one of
// IPv6, extension headers of 62 bytes together, and two ports. Where extension headers are longer, the ports are not seen.
const Window = 128

// Report says of what a hash is: the values of hash_report in the header of a packet (virtio 1.3, 5.1.6.4.3.3). That of a type
// is the number of its bit, plus 1.
type Report uint16

// None is VIRTIO_NET_HASH_REPORT_NONE: there is no hash.
const None Report = 0

// Lengths of headers without options, and of the ports that TCP and UDP begin with.
const (
	ethernetSize, tagSize         = 14, 4
	ipv4Size, ipv6Size, portsSize = 20, 40, 4
	maxTags, maxExtensions        = 2, 6
)

// Sum is the hash of a packet whose first bytes are given, Window of them or the whole packet if that is shorter. It finds what
// is hashed as the program of a tap does (driver/kvm/steering), and believes nothing that the packet says of its lengths.
func (t *Hasher) Sum(packet []byte) (uint32, Report) {
	if t.hash.Types == 0 {
		return 0, None
	}
	etherType, p := untag(packet)
	switch etherType {
	case unix.ETH_P_IP:
		return t.ipv4(p)
	case unix.ETH_P_IPV6:
		return t.ipv6(p)
	}
	return 0, None
}

// untag returns what is behind the Ethernet header and VLAN tags of a packet. A type of 0 is a packet that is too short.
func untag(p []byte) (etherType uint16, payload []byte) {
	if len(p) < ethernetSize {
		return 0, nil
	}
	etherType, p = binary.BigEndian.Uint16(p[ethernetSize-2:]), p[ethernetSize:]
	for range maxTags {
		if etherType != unix.ETH_P_8021Q && etherType != unix.ETH_P_8021AD {
			break
		}
		if len(p) < tagSize {
			return 0, nil
		}
		etherType, p = binary.BigEndian.Uint16(p[tagSize-2:]), p[tagSize:]
	}
	return etherType, p
}

// ipv4 hashes a packet of IPv4 (RFC 791). Fragments have no ports, so that all go one way.
func (t *Hasher) ipv4(p []byte) (uint32, Report) {
	if len(p) < ipv4Size {
		return 0, None
	}
	size, protocol := int(p[0]&0xf)*4, p[9]
	if size < ipv4Size {
		return 0, None
	}
	if binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
		protocol = unix.IPPROTO_NONE
	}
	return t.sum(p[12:ipv4Size], protocol, p[min(size, len(p)):], TCPv4, UDPv4, IPv4)
}

// ipv6 hashes a packet of IPv6 (RFC 8200). Fragments have an extension header that is not skipped.
func (t *Hasher) ipv6(p []byte) (uint32, Report) {
	if len(p) < ipv6Size {
		return 0, None
	}
	protocol, rest := p[6], p[ipv6Size:]
	for range maxExtensions {
		if protocol != unix.IPPROTO_HOPOPTS && protocol != unix.IPPROTO_ROUTING && protocol != unix.IPPROTO_DSTOPTS {
			break
		}
		if len(rest) < 2 {
			protocol = unix.IPPROTO_NONE
			break
		}
		protocol, rest = rest[0], rest[min((int(rest[1])+1)*8, len(rest)):]
	}
	return t.sum(p[8:ipv6Size], protocol, rest, TCPv6, UDPv6, IPv6)
}

// sum hashes addresses, and the ports that rest begins with where it is of a protocol whose ports the driver wants hashed.
func (t *Hasher) sum(addresses []byte, protocol byte, rest []byte, tcp, udp, ip uint32) (uint32, Report) {
	var with uint32
	switch protocol {
	case unix.IPPROTO_TCP:
		with = tcp
	case unix.IPPROTO_UDP:
		with = udp
	}
	if with &= t.hash.Types; with != 0 && len(rest) >= portsSize {
		return t.add(t.add(0, 0, addresses), len(addresses), rest[:portsSize]), report(with)
	}
	if ip &= t.hash.Types; ip == 0 {
		return 0, None
	}
	return t.add(0, 0, addresses), report(ip)
}

func report(hashType uint32) Report { return Report(bits.Len32(hashType)) }
