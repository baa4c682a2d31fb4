package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// change is a link that became a port of a bridge, or ceased to be one, and what moved with it.
type change struct {
	Bridge string `json:"bridge"`
	Port   string `json:"port"`
	Attach bool   `json:"attach"`

	Addresses []address `json:"addresses,omitempty"`
	Routes    []route   `json:"routes,omitempty"`
	// MAC is the bridge's before, where it changed to the port's.
	MAC string `json:"mac,omitempty"`
}

// address is one that moves. Lifetimes are in seconds, 0 for ever.
type address struct {
	Prefix    netip.Prefix `json:"prefix"`
	Broadcast net.IP       `json:"broadcast,omitempty"`
	Flags     int          `json:"flags,omitempty"`
	Scope     int          `json:"scope,omitempty"`
	Valid     int          `json:"valid,omitempty"`
	Preferred int          `json:"preferred,omitempty"`
}

// route is one that moves: as the library has it, less the link.
type route struct {
	To       *netip.Prefix `json:"to,omitempty"` // nil is the default route
	Gateway  net.IP        `json:"gateway,omitempty"`
	Source   net.IP        `json:"source,omitempty"`
	Scope    int           `json:"scope,omitempty"`
	Priority int           `json:"priority,omitempty"`
	Table    int           `json:"table,omitempty"`
	Protocol int           `json:"protocol,omitempty"`
	Family   int           `json:"family"`
	Flags    int           `json:"flags,omitempty"`
}

// from and to are the links between which addresses move.
func (c *change) from() string {
	if c.Attach {
		return c.Port
	}
	return c.Bridge
}

func (c *change) to() string {
	if c.Attach {
		return c.Bridge
	}
	return c.Port
}

// look notes what moves.
func (c *change) look() error {
	l, err := netlink.LinkByName(c.from())
	if err != nil {
		return failed(err, "look at interface '%s'", c.from())
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return failed(err, "list the addresses of '%s'", c.from())
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if !ok || ip.Unmap().Is6() && ip.IsLinkLocalUnicast() {
			continue // the kernel gives each link one of its own
		}
		one := address{Prefix: netip.PrefixFrom(ip.Unmap(), bits), Broadcast: a.Broadcast, Flags: a.Flags, Scope: a.Scope}
		if a.Flags&unix.IFA_F_PERMANENT == 0 {
			one.Valid, one.Preferred = a.ValidLft, a.PreferedLft
		}
		c.Addresses = append(c.Addresses, one)
	}
	return c.lookRoutes(l)
}

func (c *change) lookRoutes(l netlink.Link) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return failed(err, "list the routes of '%s'", c.from())
		}
		for _, r := range list {
			for _, hop := range r.MultiPath {
				if hop.LinkIndex == l.Attrs().Index {
					return virterr.New(virterr.OperationUnsupported, "a route to %s has several ways, one of them by '%s': such routes cannot be moved; remove it first", r.Dst, c.from())
				}
			}
			if r.LinkIndex != l.Attrs().Index || r.Table == unix.RT_TABLE_LOCAL || r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST {
				continue
			}
			one := route{Gateway: r.Gw, Source: r.Src, Scope: int(r.Scope), Priority: r.Priority, Table: r.Table, Protocol: int(r.Protocol), Family: family, Flags: r.Flags & unix.RTNH_F_ONLINK}
			if r.Dst != nil {
				if ip, ok := netip.AddrFromSlice(r.Dst.IP); ok {
					bits, _ := r.Dst.Mask.Size()
					if bits > 0 || !ip.IsUnspecified() {
						p := netip.PrefixFrom(ip.Unmap(), bits)
						one.To = &p
					}
				}
			}
			c.Routes = append(c.Routes, one)
		}
	}
	return nil
}

// do makes the change, or as much as goes; undo takes it back, whatever was made of it.
func (c *change) do(s *Changer) error {
	if c.Attach {
		if err := c.takeMAC(); err != nil {
			return err
		}
		if err := errors.Join(s.cfg.Links.Attach(c.Bridge, c.Port), s.cfg.Links.SetUp(c.Port, true), s.cfg.Links.SetUp(c.Bridge, true)); err != nil {
			return err
		}
	} else if err := s.cfg.Links.Detach(c.Port); err != nil {
		return err
	}
	return c.move(c.from(), c.to())
}

func (c *change) undo(s *Changer) error {
	var errs []error
	if c.Attach {
		errs = append(errs, s.cfg.Links.Detach(c.Port))
	} else {
		errs = append(errs, s.cfg.Links.Attach(c.Bridge, c.Port))
	}
	errs = append(errs, c.move(c.to(), c.from()))
	if c.MAC != "" {
		mac, err := net.ParseMAC(c.MAC)
		if err == nil {
			err = setMAC(c.Bridge, mac)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// takeMAC gives a bridge without ports the address of the first: whoever gave the host its addresses knows it by that.
func (c *change) takeMAC() error {
	br, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		return failed(err, "look at bridge '%s'", c.Bridge)
	}
	port, err := netlink.LinkByName(c.Port)
	if err != nil {
		return failed(err, "look at interface '%s'", c.Port)
	}
	if len(c.Addresses) == 0 {
		return nil
	}
	c.MAC = br.Attrs().HardwareAddr.String()
	return setMAC(c.Bridge, port.Attrs().HardwareAddr)
}

func setMAC(name string, mac net.HardwareAddr) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetHardwareAddr(l, mac)
	}
	return failed(err, "give bridge '%s' the address %s", name, mac)
}

// move moves addresses and routes from one link to another. What is there already, or gone already, is no error, so that a move
// can be taken back from anywhere in its middle.
func (c *change) move(from, to string) error {
	src, err := netlink.LinkByName(from)
	if err != nil {
		return failed(err, "look at interface '%s'", from)
	}
	dst, err := netlink.LinkByName(to)
	if err != nil {
		return failed(err, "look at interface '%s'", to)
	}
	var errs []error
	for _, a := range c.Addresses {
		errs = append(errs, failed(netlink.AddrReplace(dst, a.addr()), "give %s to '%s'", a.Prefix, to))
		err := netlink.AddrDel(src, a.addr())
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			err = nil
		}
		errs = append(errs, failed(err, "take %s from '%s'", a.Prefix, from))
	}
	for _, r := range c.Routes {
		err := netlink.RouteDel(r.route(src.Attrs().Index))
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
			err = nil
		}
		errs = append(errs, failed(err, "remove the route %s", r))
	}
	// Those by a gateway need those of the link.
	for _, gateways := range []bool{false, true} {
		for _, r := range c.Routes {
			if (r.Gateway != nil) == gateways {
				errs = append(errs, failed(netlink.RouteReplace(r.route(dst.Attrs().Index)), "add the route %s to '%s'", r, to))
			}
		}
	}
	return errors.Join(errs...)
}

func (a address) addr() *netlink.Addr {
	out := &netlink.Addr{IPNet: &net.IPNet{IP: a.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(a.Prefix.Bits(), a.Prefix.Addr().BitLen())},
		Broadcast: a.Broadcast, Scope: a.Scope, ValidLft: a.Valid, PreferedLft: a.Preferred}
	out.Flags = a.Flags &^ (unix.IFA_F_PERMANENT | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_SECONDARY)
	if a.Prefix.Addr().Is6() {
		out.Flags |= unix.IFA_F_NODAD // it was the host's a moment ago
	}
	return out
}

func (r route) route(index int) *netlink.Route {
	out := &netlink.Route{LinkIndex: index, Gw: r.Gateway, Src: r.Source, Scope: netlink.Scope(r.Scope), Priority: r.Priority, Table: r.Table,
		Protocol: netlink.RouteProtocol(r.Protocol), Family: r.Family, Flags: r.Flags}
	if r.To != nil {
		out.Dst = &net.IPNet{IP: r.To.Addr().AsSlice(), Mask: net.CIDRMask(r.To.Bits(), r.To.Addr().BitLen())}
	}
	return out
}

// String prints a route as ip does.
func (r route) String() string {
	out := "default"
	if r.To != nil {
		out = r.To.String()
	}
	if r.Gateway != nil {
		out += " via " + r.Gateway.String()
	}
	return out
}

// moves reports whether the host is reached by what moves.
func (c *change) moves() bool { return len(c.Addresses) > 0 }

func (c *change) encode() ([]byte, error) { return json.Marshal(c) }

// failed explains an error of the kernel; nil is none.
func failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return virterr.New(virterr.SystemError, "cannot %s: %w", fmt.Sprintf(format, args...), err)
}
