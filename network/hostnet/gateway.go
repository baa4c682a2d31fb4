package hostnet

import (
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"virtd/network/bridge"
	"virtd/virterr"
)

// How long gateways have to answer: before the change, and after it, when the bridge may have to learn first.
const (
	beforeTime = 1500 * time.Millisecond
	afterTime  = 5 * time.Second
)

// gateways returns the gateways of the routes that move which answer over a link.
func (c *change) gateways(link string, within time.Duration) []net.IP {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return nil
	}
	var all, out []net.IP
	for _, r := range c.Routes {
		if r.Gateway != nil && !slices.ContainsFunc(all, r.Gateway.Equal) {
			all = append(all, r.Gateway)
		}
	}
	for _, gw := range all {
		if answers(l, gw, within) {
			out = append(out, gw)
		}
	}
	return out
}

// answers reports whether a neighbour's hardware address can be found out. What was known is forgotten first.
func answers(l netlink.Link, ip net.IP, within time.Duration) bool {
	index := l.Attrs().Index
	_ = netlink.NeighDel(&netlink.Neigh{LinkIndex: index, IP: ip}) // it may not be known
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		ask(l, ip)
		list, err := netlink.NeighList(index, 0)
		for _, n := range list {
			if err == nil && n.IP.Equal(ip) && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE|netlink.NUD_PERMANENT) != 0 {
				return true
			}
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// ask has the kernel look for a neighbour, by a datagram to the port that discards (RFC 863).
func ask(l netlink.Link, ip net.IP) {
	to := &net.UDPAddr{IP: ip, Port: 9}
	if ip.To4() == nil && ip.IsLinkLocalUnicast() {
		to.Zone = l.Attrs().Name
	}
	conn, err := net.DialUDP("udp", nil, to)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte{0}) // that nobody answers is no matter
}

// stillAnswer checks that the gateways that answered before do so over the new way.
func (c *change) stillAnswer(before []net.IP) error {
	l, err := netlink.LinkByName(c.to())
	if err != nil {
		return failed(err, "look at interface '%s'", c.to())
	}
	within := afterTime
	if c.Attach && bridge.STP(c.Bridge) {
		const listenAndLearn = 30 * time.Second // twice the usual forward delay
		within += listenAndLearn
	}
	for _, gw := range before {
		if !answers(l, gw, within) {
			return virterr.New(virterr.OperationFailed, "the gateway %s does not answer over '%s' any more, so the change of '%s' was taken back", gw, c.to(), c.Port)
		}
	}
	return nil
}
