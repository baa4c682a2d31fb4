package dhcp

import (
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// answer builds an OFFER or ACK for an address.
func (s *Server) answer(r *request, kind dhcpv4.MessageType, ip netip.Addr) *Reply {
	p := s.reply(r, kind)
	if p == nil {
		return nil
	}
	p.YourIPAddr = ip.AsSlice()
	s.addOptions(p, r)
	seconds := uint32(math.MaxUint32) // never ends (RFC 2131, 3.3)
	if t := s.leaseTime(r, ip); t > 0 {
		seconds = uint32(t / time.Second)
		p.UpdateOption(dhcpv4.OptRenewTimeValue(t / 2))
		p.UpdateOption(dhcpv4.OptRebindingTimeValue(t * 7 / 8))
	}
	p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionIPAddressLeaseTime, binary.BigEndian.AppendUint32(nil, seconds)))
	return s.address(r, p, ip)
}

// inform answers a guest that has an address and wants to know the rest.
func (s *Server) inform(r *request) *Reply {
	at, ok := netip.AddrFromSlice(r.packet.ClientIPAddr.To4())
	if !ok || !s.cfg.Server.Contains(at) {
		return nil
	}
	p := s.reply(r, dhcpv4.MessageTypeAck)
	if p == nil {
		return nil
	}
	s.addOptions(p, r)
	return s.address(r, p, at)
}

// nak tells a guest to begin again. It goes to all: the guest may have an address of another network.
func (s *Server) nak(r *request, why string) *Reply {
	p := s.reply(r, dhcpv4.MessageTypeNak)
	if p == nil {
		return nil
	}
	p.ClientIPAddr = net.IPv4zero
	p.UpdateOption(dhcpv4.OptMessage(why))
	return &Reply{Data: p.ToBytes(), IP: netip.AddrFrom4([4]byte{255, 255, 255, 255})}
}

// reply begins an answer.
func (s *Server) reply(r *request, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	p, err := dhcpv4.NewReplyFromRequest(r.packet, dhcpv4.WithMessageType(kind))
	if err != nil {
		return nil
	}
	p.UpdateOption(dhcpv4.OptServerIdentifier(s.cfg.Server.Addr().AsSlice()))
	if id := r.packet.Options.Get(dhcpv4.OptionClientIdentifier); len(id) > 0 && len(id) <= maxClientID {
		p.UpdateOption(dhcpv4.OptClientIdentifier(id)) // RFC 6842
	} else {
		p.Options.Del(dhcpv4.OptionClientIdentifier)
	}
	return p
}

// addOptions tells the guest of the network.
func (s *Server) addOptions(p *dhcpv4.DHCPv4, r *request) {
	server := net.IP(s.cfg.Server.Addr().AsSlice())
	mask := net.CIDRMask(s.cfg.Server.Bits(), 32)
	broadcast := make(net.IP, 4)
	for i, b := range s.cfg.Server.Addr().As4() {
		broadcast[i] = b | ^mask[i]
	}
	p.UpdateOption(dhcpv4.OptSubnetMask(mask))
	p.UpdateOption(dhcpv4.OptBroadcastAddress(broadcast))
	if s.cfg.Router {
		p.UpdateOption(dhcpv4.OptRouter(server))
	}
	if s.cfg.Resolver {
		p.UpdateOption(dhcpv4.OptDNS(server))
	}
	if s.cfg.Domain != "" {
		p.UpdateOption(dhcpv4.OptDomainName(s.cfg.Domain))
	}
	if r.host != nil && r.host.Name != "" {
		p.UpdateOption(dhcpv4.OptHostName(r.host.Name))
	}
	if s.cfg.MTU > 0 {
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(s.cfg.MTU))))
	}
	if s.cfg.BootFile == "" {
		return
	}
	at := s.cfg.Server.Addr()
	if s.cfg.BootServer.IsValid() {
		at = s.cfg.BootServer
	}
	p.ServerIPAddr = at.AsSlice()
	if len(s.cfg.BootFile) < 128 { // the field's size
		p.BootFileName = s.cfg.BootFile
	}
	p.UpdateOption(dhcpv4.OptTFTPServerName(at.String()))
	p.UpdateOption(dhcpv4.OptBootFileName(s.cfg.BootFile))
}

// address says where a reply goes (RFC 2131, 4.1).
func (s *Server) address(r *request, p *dhcpv4.DHCPv4, ip netip.Addr) *Reply {
	reply := &Reply{Data: p.ToBytes(), MAC: r.packet.ClientHWAddr, IP: ip}
	if r.packet.IsBroadcast() && r.packet.ClientIPAddr.IsUnspecified() {
		reply.MAC, reply.IP = nil, netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return reply
}
