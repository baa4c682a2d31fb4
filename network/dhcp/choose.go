package dhcp

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"time"
)

// choose finds the address to offer to a guest: its own, the one it wants, or one that nobody has.
func (s *Server) choose(r *request) (netip.Addr, bool) {
	now := s.now()
	if r.host != nil && r.host.IP.IsValid() {
		if e := s.byIP[r.host.IP]; e != nil && !e.heldBy(r) && e.taken(now) && e.leased {
			return netip.Addr{}, false // who has it may keep it until it ends
		}
		return r.host.IP, true
	}
	if e := s.byClient[r.client]; e != nil && s.inRange(e.IP) && s.reserved[e.IP] == nil {
		return e.IP, true
	}
	if r.wanted.IsValid() && s.free(r.wanted, now) {
		return r.wanted, true
	}
	if now.Before(s.fullUntil) {
		return netip.Addr{}, false
	}
	if a, ok := s.search(r, now); ok {
		return a, true
	}
	return s.steal(now)
}

// free reports whether a guest may have an address that it has not had.
func (s *Server) free(a netip.Addr, now time.Time) bool {
	if s.reserved[a] != nil || a == s.cfg.Server.Addr() || !s.inRange(a) {
		return false
	}
	e := s.byIP[a]
	return e == nil || !e.taken(now)
}

// search looks for a free address, beginning where the guest's hash says: so guests get the same addresses again although the
// leases were lost, and addresses are not given to the next guest as soon as one lets go of them.
func (s *Server) search(r *request, now time.Time) (netip.Addr, bool) {
	total := uint32(0)
	for _, rng := range s.cfg.Ranges {
		total += uint32(rng.Size())
	}
	if total == 0 {
		return netip.Addr{}, false
	}
	h := fnv.New32a()
	h.Write([]byte(r.client))
	start := h.Sum32() % total
	for pass := range 2 { // addresses that nobody had first
		for i := range total {
			a := s.nth((start + i) % total)
			if (pass == 1 || s.byIP[a] == nil) && s.free(a, now) {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// nth returns an address of the ranges.
func (s *Server) nth(n uint32) netip.Addr {
	for _, rng := range s.cfg.Ranges {
		if size := uint32(rng.Size()); n >= size {
			n -= size
			continue
		}
		b := rng.First.As16() // of an IPv4 address they are the last bytes
		binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+uint64(n))
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.Addr{}
}

// steal takes the oldest offer that was not accepted, so that a flood of discoveries keeps nobody out. Where all addresses are
// leased it notes until when, which makes further questions cheap.
func (s *Server) steal(now time.Time) (netip.Addr, bool) {
	var oldest *entry
	soonest := now.Add(time.Minute)
	for _, e := range s.byIP {
		if s.reserved[e.IP] != nil || !s.inRange(e.IP) {
			continue
		}
		if !e.leased && !e.declined && (oldest == nil || e.until.Before(oldest.until)) {
			oldest = e
		}
		if e.leased && !e.Expires.IsZero() && e.Expires.Before(soonest) {
			soonest = e.Expires
		}
	}
	if oldest == nil {
		s.fullUntil = soonest
		return netip.Addr{}, false
	}
	ip := oldest.IP
	s.drop(oldest)
	return ip, true
}
