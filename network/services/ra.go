package services

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

// Neighbour discovery for IPv6 (RFC 4861) and its option for resolvers (RFC 8106).
const (
	icmpRouterSolicitation  = 133
	icmpRouterAdvertisement = 134

	optionPrefix = 3
	optionMTU    = 5
	optionRDNSS  = 25

	// Flags of the message and of a prefix.
	flagManaged, flagOther     = 0x80, 0x40
	flagOnLink, flagAutonomous = 0x80, 0x40

	advertiseEvery = 3 * time.Minute
	routerLifetime = 30 * time.Minute
	solicitedEvery = time.Second // at most: a guest decides how often it asks
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// advertisement is the message that tells guests how to make addresses of their own. The kernel fills in the checksum.
func advertisement(c Config) []byte {
	b := make([]byte, 16)
	b[0], b[4] = icmpRouterAdvertisement, 64 // hop limit
	if c.DHCP6 != nil {
		b[5] = flagManaged | flagOther
	}
	if c.Router {
		binary.BigEndian.PutUint16(b[6:], uint16(routerLifetime/time.Second))
	}
	for _, p := range c.RA {
		o := make([]byte, 32)
		o[0], o[1], o[2], o[3] = optionPrefix, 4, byte(p.Bits()), flagOnLink|flagAutonomous
		if c.DHCP6 != nil && c.DHCP6.Server.Masked() == p.Masked() {
			o[3] = flagOnLink // addresses are leased
		}
		binary.BigEndian.PutUint32(o[4:], 24*3600)
		binary.BigEndian.PutUint32(o[8:], 12*3600)
		a := p.Masked().Addr().As16()
		copy(o[16:], a[:])
		b = append(b, o...)
	}
	if c.MTU >= 1280 { // the least for IPv6
		o := make([]byte, 8)
		o[0], o[1] = optionMTU, 1
		binary.BigEndian.PutUint32(o[4:], uint32(c.MTU))
		b = append(b, o...)
	}
	if c.DNS == nil {
		return b
	}
	for _, a := range c.Listen {
		if a.Is6() {
			o := make([]byte, 24)
			o[0], o[1] = optionRDNSS, 3
			binary.BigEndian.PutUint32(o[4:], uint32(routerLifetime/time.Second))
			ip := a.As16()
			copy(o[8:], ip[:])
			b = append(b, o...)
		}
	}
	return b
}

// serveRA sends advertisements, in turn and when a guest asks.
func (c *child) serveRA() error {
	buf := make([]byte, maxPacket)
	next := time.Now()
	var last time.Time
	for {
		if now := time.Now(); !now.Before(next) {
			last, next = now, now.Add(advertiseEvery)
			if err := c.advertise(); err != nil {
				// the bridge has no port yet, or its own address is not usable yet: guests that start now wait for it
				c.log.printf("router advertisement: %v", err)
				next = now.Add(solicitedEvery)
			}
		}
		if err := c.ra.SetReadDeadline(next); err != nil {
			return err
		}
		n, _, err := c.ra.ReadFromIP(buf)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			continue
		}
		if err != nil {
			time.Sleep(solicitedEvery) // the bridge is down for now
			continue
		}
		if n >= 8 && buf[0] == icmpRouterSolicitation {
			next = time.Now()
			if soonest := last.Add(solicitedEvery); next.Before(soonest) {
				next = soonest
			}
		}
	}
}

func (c *child) advertise() error {
	c.mu.Lock()
	msg := advertisement(c.cfg)
	c.mu.Unlock()
	_, err := c.ra.WriteToIP(msg, &net.IPAddr{IP: allNodes.AsSlice()})
	return err
}
