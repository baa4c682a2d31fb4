package dhcp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Times of what is not a lease yet, or must not become one.
const (
	offerTime   = 30 * time.Second
	declineTime = 10 * time.Minute
)

// maxClientID is the longest client identifier that tells clients apart; with a longer one the MAC address does.
const maxClientID = 64

// Server answers the DHCP packets of one subnet. It is not safe for concurrent use.
type Server struct {
	cfg     Config
	journal *Journal
	now     func() time.Time

	byIP      map[netip.Addr]*entry
	byClient  map[string]*entry
	byName    map[string]*entry    // lower case
	reserved  map[netip.Addr]*Host // addresses of static hosts
	fullUntil time.Time            // no address becomes free before
}

// entry is an address that somebody has, had, or was offered.
type entry struct {
	Lease
	client   string    // "" after a decline
	leased   bool      // else it is an offer
	until    time.Time // of an offer or a decline; a lease has Expires
	declined bool
}

// taken reports whether nobody else can have the address now. Offers do not count where ranges are full.
func (e *entry) taken(now time.Time) bool {
	if e.leased {
		return e.Expires.IsZero() || now.Before(e.Expires)
	}
	return now.Before(e.until)
}

// heldBy reports whether the guest that asks is the one that has the address. A static host is one guest by its MAC address
// whatever its client identifier: firmware, installer and system each send one of their own.
func (e *entry) heldBy(r *request) bool {
	return e.client == r.client || r.host != nil && r.host.IP == e.IP && r.host.MAC != "" && r.host.MAC == e.MAC
}

// Reply is a packet to send to a guest.
type Reply struct {
	Data []byte
	MAC  net.HardwareAddr // nil: to all
	IP   netip.Addr       // the destination
}

// New returns a server that goes on with the leases in the journal.
func New(cfg Config, journal *Journal, leases []Lease, now func() time.Time) *Server {
	s := &Server{journal: journal, now: now, byIP: map[netip.Addr]*entry{}, byClient: map[string]*entry{}, byName: map[string]*entry{}}
	s.SetConfig(cfg)
	for _, l := range leases {
		if !s.cfg.Server.Contains(l.IP) {
			continue
		}
		l.Bits = s.cfg.Server.Bits()
		client := clientKey(l.MAC, l.ClientID)
		if l.IP.Is6() {
			client = clientKey6(l.ClientID, l.IAID)
		}
		s.put(&entry{Lease: l, client: client, leased: true})
	}
	return s
}

// SetConfig changes what is leased. Leases stay as they are until they end.
func (s *Server) SetConfig(cfg Config) {
	s.cfg = cfg
	s.reserved = map[netip.Addr]*Host{}
	for i := range cfg.Hosts {
		if h := &cfg.Hosts[i]; h.IP.IsValid() {
			s.reserved[h.IP] = h
		}
	}
	s.fullUntil = time.Time{}
}

// Leases returns the addresses that guests have now.
func (s *Server) Leases() []Lease {
	now := s.now()
	var out []Lease
	for _, e := range s.byIP {
		if e.leased && e.taken(now) {
			out = append(out, e.Lease)
		}
	}
	return out
}

// LookupName returns the address of the guest that has a lease under that name.
func (s *Server) LookupName(name string) (netip.Addr, bool) {
	e := s.byName[strings.ToLower(name)]
	if e == nil || !e.leased || !e.taken(s.now()) {
		return netip.Addr{}, false
	}
	return e.IP, true
}

// LookupIP returns the name of the guest that has the address.
func (s *Server) LookupIP(ip netip.Addr) (string, bool) {
	e := s.byIP[ip]
	if e == nil || !e.leased || e.Name == "" || !e.taken(s.now()) {
		return "", false
	}
	return e.Name, true
}

// put makes an entry known, in place of what its address and client had.
func (s *Server) put(e *entry) {
	s.drop(s.byIP[e.IP])
	if e.client != "" {
		s.drop(s.byClient[e.client])
		s.byClient[e.client] = e
	}
	s.byIP[e.IP] = e
	if e.Name == "" {
		return
	}
	name := strings.ToLower(e.Name)
	if other := s.byName[name]; other != nil && other.leased && other.taken(s.now()) {
		e.Name = "" // who came first keeps the name
		return
	}
	s.byName[name] = e
}

func (s *Server) drop(e *entry) {
	if e == nil {
		return
	}
	delete(s.byIP, e.IP)
	if s.byClient[e.client] == e {
		delete(s.byClient, e.client)
	}
	if name := strings.ToLower(e.Name); s.byName[name] == e {
		delete(s.byName, name)
	}
}

// request is one packet of a guest, looked through.
type request struct {
	packet   *dhcpv4.DHCPv4 // nil by IPv6
	mac      string
	clientID string // hexadecimal with colons, or ""
	client   string
	host     *Host // the static host that it is, or nil
	name     string
	wanted   netip.Addr // requested address, or the one it says it has
	iaid     uint32     // by IPv6
}

func clientKey(mac, clientID string) string {
	if clientID != "" {
		return clientID
	}
	return "mac " + mac
}

// Handle answers one packet by IPv4. A nil reply is for packets that want none, or deserve none; note says what an administrator
// might want to know, "" for nothing. The caller calls Journal.Sync before it sends the reply.
func (s *Server) Handle(data []byte) (reply *Reply, note string) {
	p, err := dhcpv4.FromBytes(data)
	if err != nil {
		return nil, "a malformed packet"
	}
	r, ok := s.look(p)
	if !ok {
		return nil, ""
	}
	switch p.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.discover(r)
	case dhcpv4.MessageTypeRequest:
		return s.request(r)
	case dhcpv4.MessageTypeDecline:
		return nil, s.decline(r)
	case dhcpv4.MessageTypeRelease:
		return nil, s.release(r)
	case dhcpv4.MessageTypeInform:
		return s.inform(r), ""
	}
	return nil, ""
}

// look checks that a packet is from a guest on this network, and finds out which.
func (s *Server) look(p *dhcpv4.DHCPv4) (*request, bool) {
	if p.OpCode != dhcpv4.OpcodeBootRequest || p.HWType != iana.HWTypeEthernet || len(p.ClientHWAddr) != 6 ||
		p.ClientHWAddr[0]&1 != 0 || bytes.Equal(p.ClientHWAddr, make([]byte, 6)) || !p.GatewayIPAddr.IsUnspecified() {
		return nil, false
	}
	r := &request{packet: p, mac: p.ClientHWAddr.String()}
	if id := p.Options.Get(dhcpv4.OptionClientIdentifier); len(id) > 1 && len(id) <= maxClientID {
		r.clientID = hexColons(id)
	}
	r.client = clientKey(r.mac, r.clientID)
	for i := range s.cfg.Hosts {
		h := &s.cfg.Hosts[i]
		if h.ID != "" && (strings.EqualFold(h.ID, r.clientID) || h.ID == string(p.Options.Get(dhcpv4.OptionClientIdentifier))) {
			r.host = h
			break
		}
		if h.MAC == r.mac && r.host == nil {
			r.host = h
		}
	}
	r.name = hostLabel(p.HostName())
	if r.host != nil && r.host.Name != "" {
		r.name = r.host.Name
	}
	if a, ok := netip.AddrFromSlice(p.RequestedIPAddress().To4()); ok {
		r.wanted = a
	} else if a, ok := netip.AddrFromSlice(p.ClientIPAddr.To4()); ok && !a.IsUnspecified() {
		r.wanted = a
	}
	return r, true
}

func hexColons(b []byte) string {
	parts := make([]string, len(b))
	for i := range b {
		parts[i] = hex.EncodeToString(b[i : i+1])
	}
	return strings.Join(parts, ":")
}

// hostLabel returns the first label of what a guest calls itself, "" where that is no host name.
func hostLabel(name string) string {
	label, _, _ := strings.Cut(strings.TrimRight(name, "\x00"), ".")
	if len(label) == 0 || len(label) > 63 || label[0] == '-' {
		return ""
	}
	for _, c := range []byte(label) {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return ""
		}
	}
	return label
}

func (s *Server) discover(r *request) (*Reply, string) {
	ip, ok := s.choose(r)
	if !ok {
		return nil, "no address is left for " + r.mac
	}
	e := s.byIP[ip]
	if e == nil || e.client != r.client || !e.leased {
		if old := s.byClient[r.client]; old != nil && old.leased && old.IP != ip {
			s.journal.Remove(old.IP) // put forgets it: the next process must not find it
		}
		e = &entry{Lease: s.lease(r, ip), client: r.client, until: s.now().Add(offerTime)}
		e.Name = ""
		s.put(e)
	}
	return s.answer(r, dhcpv4.MessageTypeOffer, ip), ""
}

func (s *Server) request(r *request) (*Reply, string) {
	if id := r.packet.ServerIdentifier(); id != nil {
		if a, ok := netip.AddrFromSlice(id.To4()); !ok || a != s.cfg.Server.Addr() {
			if e := s.byClient[r.client]; e != nil && !e.leased {
				s.drop(e) // it chose another server
			}
			return nil, ""
		}
	}
	if why := s.refuses(r); why != "" {
		return s.nak(r, why), "refused " + printable(r.wanted) + " to " + r.mac + ": " + why
	}
	e := &entry{Lease: s.lease(r, r.wanted), client: r.client, leased: true}
	old := s.byClient[r.client]
	if old != nil && old.leased && old.IP != e.IP {
		s.journal.Remove(old.IP)
	}
	s.put(e)
	s.journal.Put(e.Lease)
	return s.answer(r, dhcpv4.MessageTypeAck, r.wanted), ""
}

func printable(a netip.Addr) string {
	if !a.IsValid() {
		return "no address"
	}
	return a.String()
}

// refuses says why a guest cannot have the address that it wants, "" when it can.
func (s *Server) refuses(r *request) string {
	now := s.now()
	switch e := s.byIP[r.wanted]; {
	case !r.wanted.IsValid() || !s.cfg.Server.Contains(r.wanted) || r.wanted == s.cfg.Server.Addr():
		return "address not on this network"
	case e != nil && !e.heldBy(r) && e.taken(now) && (e.leased || e.declined):
		return "address in use"
	case r.host != nil && r.host.IP.IsValid() && r.host.IP != r.wanted:
		return "static address available"
	case s.reserved[r.wanted] != nil && s.reserved[r.wanted] != r.host:
		return "address reserved"
	case s.reserved[r.wanted] == nil && !s.inRange(r.wanted):
		return "address not available"
	}
	return ""
}

func (s *Server) inRange(a netip.Addr) bool { return s.rangeOf(a) != nil }

func (s *Server) rangeOf(a netip.Addr) *Range {
	for i := range s.cfg.Ranges {
		if r := &s.cfg.Ranges[i]; !a.Less(r.First) && !r.Last.Less(a) {
			return r
		}
	}
	return nil
}

// decline notes that a guest found its address in use. Only who has an address can say so.
func (s *Server) decline(r *request) string {
	e := s.byClient[r.client]
	if e == nil || e.IP != r.wanted {
		return ""
	}
	if e.leased {
		s.journal.Remove(e.IP)
	}
	s.put(&entry{Lease: Lease{IP: e.IP}, declined: true, until: s.now().Add(declineTime)})
	return fmt.Sprintf("%s says that somebody else uses %s", r.mac, e.IP)
}

func (s *Server) release(r *request) string {
	e := s.byClient[r.client]
	if e == nil || !e.leased || e.IP != r.wanted {
		return ""
	}
	s.journal.Remove(e.IP)
	s.drop(e)
	s.fullUntil = time.Time{}
	return ""
}

// lease is what a guest gets with an address.
func (s *Server) lease(r *request, ip netip.Addr) Lease {
	l := Lease{IP: ip, MAC: r.mac, ClientID: r.clientID, Name: r.name, Bits: s.cfg.Server.Bits(), IAID: r.iaid}
	if t := s.leaseTime(r, ip); t > 0 {
		l.Expires = s.now().Add(t)
	}
	return l
}

// leaseTime is how long a guest may have an address; negative is for ever.
func (s *Server) leaseTime(r *request, ip netip.Addr) time.Duration {
	t := time.Duration(0)
	if rng := s.rangeOf(ip); rng != nil {
		t = rng.Lease
	}
	if r.host != nil && r.host.Lease != 0 {
		t = r.host.Lease
	}
	if t == 0 {
		t = DefaultLease
	}
	return t
}
