package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// Bounds of a message by IPv6.
const (
	maxDUID = 130 // bytes of a unique identifier (RFC 8415, 11.1), with its type
	maxIAs  = 4   // interfaces of one guest that are answered
)

// forever is the lifetime of an address that never ends (RFC 8415, 7.7).
const forever = (1<<32 - 1) * time.Second

func clientKey6(clientID string, iaid uint32) string { return fmt.Sprintf("%s/%x", clientID, iaid) }

// Handle6 answers one message by IPv6 that came from an address. A nil reply is for messages that want none, or deserve none;
// note says what an administrator might want to know, "" for nothing. The caller calls Journal.Sync before it sends the reply.
func (s *Server) Handle6(data []byte, from netip.Addr) (reply []byte, note string) {
	m, err := dhcpv6.MessageFromBytes(data)
	if err != nil {
		return nil, "a malformed DHCPv6 message"
	}
	x, ok := s.look6(m, from)
	if !ok {
		return nil, ""
	}
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit:
		x.solicit(m.GetOneOption(dhcpv6.OptionRapidCommit) != nil)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		x.leaseAll()
	case dhcpv6.MessageTypeConfirm:
		if !x.confirm() {
			return nil, ""
		}
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		x.letGo()
	case dhcpv6.MessageTypeInformationRequest:
	default:
		return nil, ""
	}
	return x.reply.ToBytes(), x.note
}

// exchange is one message of a guest and the answer to it.
type exchange struct {
	s     *Server
	m     *dhcpv6.Message
	base  request // what all of its interfaces have in common
	reply *dhcpv6.Message
	note  string
}

// look6 checks that a message is for this server, finds out whose it is, and begins the answer.
func (s *Server) look6(m *dhcpv6.Message, from netip.Addr) (*exchange, bool) {
	x := &exchange{s: s, m: m}
	own := &dhcpv6.DUIDUUID{UUID: s.cfg.ID}
	client, server := m.Options.ClientID(), m.Options.ServerID()
	mine := server != nil && string(server.ToBytes()) == string(own.ToBytes())
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		if client == nil || server != nil {
			return nil, false
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if client == nil || !mine {
			return nil, false
		}
	case dhcpv6.MessageTypeInformationRequest:
		if server != nil && !mine || len(m.Options.IANA()) > 0 {
			return nil, false
		}
	default:
		return nil, false
	}
	x.reply = &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	x.reply.AddOption(dhcpv6.OptServerID(own))
	if client != nil {
		id := client.ToBytes()
		if len(id) < 3 || len(id) > maxDUID {
			return nil, false
		}
		x.base = request{clientID: hexColons(id), mac: hardware(client, from)}
		x.reply.AddOption(dhcpv6.OptClientID(client))
	}
	if f := m.Options.FQDN(); f != nil && f.DomainName != nil && len(f.DomainName.Labels) > 0 {
		x.base.name = hostLabel(f.DomainName.Labels[0])
	}
	x.base.host = s.host6(x.base.clientID, x.base.name)
	if x.base.host != nil && x.base.host.Name != "" {
		x.base.name = x.base.host.Name
	}
	s.options6(x.reply)
	return x, true
}

// host6 finds the static host that a guest is: by its identifier, else by its name where that is all that is said of it.
func (s *Server) host6(clientID, name string) (found *Host) {
	for i := range s.cfg.Hosts {
		h := &s.cfg.Hosts[i]
		switch {
		case h.ID != "" && normalID(h.ID) == clientID:
			return h
		case h.ID == "" && name != "" && strings.EqualFold(h.Name, name):
			found = h
		}
	}
	return found
}

// normalID writes an identifier as hexColons does: the parts of one that a user writes may lack their first zero.
func normalID(id string) string {
	parts := strings.Split(id, ":")
	for i, p := range parts {
		if v, err := strconv.ParseUint(p, 16, 8); err == nil {
			parts[i] = fmt.Sprintf("%02x", v)
		}
	}
	return strings.Join(parts, ":")
}

// hardware finds out a guest's MAC address: from its link-local address where that is made of it (RFC 4291, appendix A), else
// from its identifier; "" where neither tells.
func hardware(id dhcpv6.DUID, from netip.Addr) string {
	if a := from.As16(); from.IsLinkLocalUnicast() && a[11] == 0xff && a[12] == 0xfe {
		return net.HardwareAddr{a[8] ^ 2, a[9], a[10], a[13], a[14], a[15]}.String()
	}
	var mac net.HardwareAddr
	switch d := id.(type) {
	case *dhcpv6.DUIDLL:
		if d.HWType == iana.HWTypeEthernet {
			mac = d.LinkLayerAddr
		}
	case *dhcpv6.DUIDLLT:
		if d.HWType == iana.HWTypeEthernet {
			mac = d.LinkLayerAddr
		}
	}
	if len(mac) != 6 {
		return ""
	}
	return mac.String()
}

// options6 tells the guest of the network.
func (s *Server) options6(to *dhcpv6.Message) {
	if s.cfg.Resolver {
		to.AddOption(dhcpv6.OptDNS(net.IP(s.cfg.Server.Addr().AsSlice())))
	}
	if s.cfg.Domain != "" {
		to.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: []string{strings.TrimSuffix(s.cfg.Domain, ".")}}))
	}
}

// requests are what the guest asks for each of its interfaces.
func (x *exchange) requests() []*request {
	var out []*request
	for _, ia := range x.m.Options.IANA() {
		if len(out) == maxIAs {
			break
		}
		r := x.base
		r.iaid = uint32(ia.IaId[0])<<24 | uint32(ia.IaId[1])<<16 | uint32(ia.IaId[2])<<8 | uint32(ia.IaId[3])
		r.client = clientKey6(r.clientID, r.iaid)
		if a := ia.Options.OneAddress(); a != nil {
			if ip, ok := netip.AddrFromSlice(a.IPv6Addr); ok && !ip.IsUnspecified() {
				r.wanted = ip
			}
		}
		out = append(out, &r)
	}
	return out
}

// solicit offers an address to each interface, or gives it at once.
func (x *exchange) solicit(rapid bool) {
	if rapid {
		x.reply.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		x.leaseAll()
		return
	}
	x.reply.MessageType = dhcpv6.MessageTypeAdvertise
	some := false
	for _, r := range x.requests() {
		ip, ok := x.s.choose(r)
		if !ok {
			x.add(r, nil, iana.StatusNoAddrsAvail)
			x.note = "no IPv6 address is left for " + r.clientID
			continue
		}
		some = true
		if e := x.s.byIP[ip]; e == nil || e.client != r.client || !e.leased {
			if old := x.s.byClient[r.client]; old != nil && old.leased && old.IP != ip {
				x.s.journal.Remove(old.IP)
			}
			e = &entry{Lease: x.s.lease(r, ip), client: r.client, until: x.s.now().Add(offerTime)}
			e.Name = ""
			x.s.put(e)
		}
		x.address(r, ip, x.s.leaseTime(r, ip))
	}
	if !some {
		x.reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})
	}
}

// leaseAll gives each interface the address that it wants or has, else another.
func (x *exchange) leaseAll() {
	for _, r := range x.requests() {
		stale := netip.Addr{}
		if r.wanted.IsValid() && x.s.refuses(r) != "" {
			stale, r.wanted = r.wanted, netip.Addr{}
		}
		if !r.wanted.IsValid() {
			ip, ok := x.s.choose(r)
			if !ok {
				x.add(r, nil, iana.StatusNoAddrsAvail)
				x.note = "no IPv6 address is left for " + r.clientID
				continue
			}
			r.wanted = ip
		}
		x.commit(r)
		x.address(r, r.wanted, x.s.leaseTime(r, r.wanted))
		if stale.IsValid() { // the guest shall not use it any more
			x.address(r, stale, 0)
		}
	}
}

func (x *exchange) commit(r *request) {
	s := x.s
	if old := s.byClient[r.client]; old != nil && old.leased && old.IP != r.wanted {
		s.journal.Remove(old.IP)
	}
	e := &entry{Lease: s.lease(r, r.wanted), client: r.client, leased: true}
	s.put(e)
	s.journal.Put(e.Lease)
}

// address tells the guest of an address; a negative time is for ever.
func (x *exchange) address(r *request, ip netip.Addr, t time.Duration) {
	if t < 0 {
		t = forever
	}
	a := &dhcpv6.OptIAAddress{IPv6Addr: ip.AsSlice(), PreferredLifetime: t, ValidLifetime: t}
	for _, ia := range x.reply.Options.IANA() {
		if ia.IaId == iaid(r) {
			ia.Options.Add(a)
			return
		}
	}
	x.add(r, a, iana.StatusSuccess)
}

func iaid(r *request) [4]byte {
	return [4]byte{byte(r.iaid >> 24), byte(r.iaid >> 16), byte(r.iaid >> 8), byte(r.iaid)}
}

// add answers for one interface.
func (x *exchange) add(r *request, a *dhcpv6.OptIAAddress, status iana.StatusCode) {
	ia := &dhcpv6.OptIANA{IaId: iaid(r)}
	if a != nil {
		ia.Options.Add(a)
		if ia.T1, ia.T2 = a.ValidLifetime/2, a.ValidLifetime*4/5; a.ValidLifetime == forever {
			ia.T1, ia.T2 = forever, forever
		}
	} else {
		ia.Options.Add(&dhcpv6.OptStatusCode{StatusCode: status})
	}
	x.reply.AddOption(ia)
}

// confirm tells a guest that moved whether its addresses are of this network. Without any there is nothing to say.
func (x *exchange) confirm() bool {
	status, any := iana.StatusSuccess, false
	for _, r := range x.requests() {
		if r.wanted.IsValid() {
			any = true
			if !x.s.cfg.Server.Contains(r.wanted) {
				status = iana.StatusNotOnLink
			}
		}
	}
	x.reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: status})
	return any
}

// letGo takes addresses back, and keeps those that somebody else uses from being given again for a while.
func (x *exchange) letGo() {
	for _, r := range x.requests() {
		if x.m.MessageType == dhcpv6.MessageTypeRelease {
			x.s.release(r)
		} else if note := x.s.decline(r); note != "" {
			x.note = note
		}
	}
	x.reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
}
