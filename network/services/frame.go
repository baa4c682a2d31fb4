package services

import (
	"encoding/binary"
	"net/netip"
)

// Ports of DHCP (RFC 2131, 4.1).
const portClient = 68

// frame puts a DHCP answer into an IPv4 packet (RFC 791, RFC 768). The checksums are complete: a guest's raw-socket client
// checks them, and nobody behind a tap would fill in what a host leaves to its network card.
func frame(from, to netip.Addr, payload []byte) []byte {
	const ipHeader, udpHeader = 20, 8
	b := make([]byte, ipHeader+udpHeader, ipHeader+udpHeader+len(payload))
	length := uint16(len(b) + len(payload))
	b[0], b[8], b[9] = 0x45, 64, 17 // version and header length, time to live, UDP
	binary.BigEndian.PutUint16(b[2:], length)
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b[:ipHeader])))
	udp := b[ipHeader:]
	binary.BigEndian.PutUint16(udp, portDHCP)
	binary.BigEndian.PutUint16(udp[2:], portClient)
	binary.BigEndian.PutUint16(udp[4:], length-ipHeader)
	pseudo := sum(sum(17+uint32(length-ipHeader), from.AsSlice()), to.AsSlice())
	check := ^fold(sum(sum(pseudo, udp), payload))
	if check == 0 {
		check = 0xffff // 0 stands for none
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return append(b, payload...)
}

// sum adds 16-bit words; fold brings the carries in (RFC 1071).
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
