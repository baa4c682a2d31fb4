package bridge

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// HostLinkConfig is a link of the host beside the macvtaps of guests on one of its devices. Frames do not go between macvtaps
// and the device below them, so guests reach their host, and it them, by this link only.
type HostLinkConfig struct {
	Name    string
	Device  string
	Address netip.Prefix   // of the host on it, with the length of the subnet
	Guests  []netip.Prefix // in the subnet: reached through it and not through the device
}

// A host's link has a routing table of its own for what is sent from its address, so that answers leave by it although the
// device below has the same subnet: tables from hostLinkTables on, by the index of the link. The rules come before the
// kernel's for the main table, 32766.
const (
	hostLinkTables = 0x76000000
	hostLinkRule   = 31000
)

// AddHostLink makes the link and routes, or completes them. Nothing about the device and its addresses and routes changes, so
// that the host's own connections go on as they are.
func (h *Host) AddHostLink(c HostLinkConfig) error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	if err := h.addressFree(c); err != nil {
		return err
	}
	l, err := netlink.LinkByName(c.Name)
	made := isMissing(err)
	if made {
		l, err = addMacvlan(c)
	}
	if err != nil {
		return hostLinkError(c, err)
	}
	if l.Type() != "macvlan" {
		return virterr.New(virterr.OperationFailed, "cannot make the host's link %s: an interface of kind %s has that name", c.Name, l.Type())
	}
	if err := h.setUpHostLink(l, c); err != nil {
		if made {
			err = errors.Join(err, h.DeleteHostLink(c))
		}
		return err
	}
	return nil
}

func hostLinkError(c HostLinkConfig, err error) error {
	return virterr.New(virterr.SystemError, "cannot make the host's link %s on %s: %w", c.Name, c.Device, errno(err))
}

func addMacvlan(c HostLinkConfig) (netlink.Link, error) {
	device, err := netlink.LinkByName(c.Device)
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = c.Name, device.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		return nil, err
	}
	return netlink.LinkByName(c.Name)
}

// addressFree refuses an address that the host has already: guests would reach it nowhere.
func (h *Host) addressFree(c HostLinkConfig) error {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot list the host's addresses: %w", errno(err))
	}
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || ip.Unmap() != c.Address.Addr() {
			continue
		}
		on, err := netlink.LinkByIndex(a.LinkIndex)
		if err == nil && on.Attrs().Name != c.Name {
			return virterr.New(virterr.OperationInvalid, "%s is an address of %s already; give the host another one for its guests, which nobody has",
				c.Address.Addr(), on.Attrs().Name)
		}
	}
	return nil
}

func (h *Host) setUpHostLink(l netlink.Link, c HostLinkConfig) error {
	// Questions for the host's other addresses are the device's to answer. What comes from guests is not what a route leads
	// back to by this link, so it is accepted when any does.
	for _, s := range []struct{ family, name, value string }{
		{"ipv4", "arp_ignore", "1"}, {"ipv4", "arp_announce", "2"}, {"ipv4", "rp_filter", "2"}, {"ipv6", "accept_ra", "0"}, {"ipv6", "autoconf", "0"},
	} {
		path := filepath.Join("/proc/sys/net", s.family, "conf", c.Name, s.name)
		if err := os.WriteFile(path, []byte(s.value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return virterr.New(virterr.SystemError, "cannot set up the host's link %s: %w", c.Name, err)
		}
	}
	if err := h.SetUp(c.Name, true); err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(c.Address), Flags: unix.IFA_F_NOPREFIXROUTE}
	if c.Address.Addr().Is6() {
		a.Flags |= unix.IFA_F_NODAD
	}
	if err := netlink.AddrReplace(l, a); err != nil {
		return hostLinkError(c, err)
	}
	return hostLinkRoutes(l, c)
}

func hostLinkRoutes(l netlink.Link, c HostLinkConfig) error {
	index, source := l.Attrs().Index, net.IP(c.Address.Addr().AsSlice())
	table := hostLinkTables + index
	subnet := c.Address.Masked()
	routes := []netlink.Route{{LinkIndex: index, Dst: ipNet(subnet), Src: source, Scope: netlink.SCOPE_LINK, Table: table}}
	for _, p := range c.Guests {
		routes = append(routes, netlink.Route{LinkIndex: index, Dst: ipNet(p), Src: source, Scope: netlink.SCOPE_LINK})
	}
	if there, err := hasRoute(subnet, index); err != nil {
		return hostLinkError(c, err)
	} else if !there { // the device has no part in the subnet, so that nothing is taken from it
		routes = append(routes, netlink.Route{LinkIndex: index, Dst: ipNet(subnet), Src: source, Scope: netlink.SCOPE_LINK})
	}
	for i := range routes {
		if err := netlink.RouteReplace(&routes[i]); err != nil {
			return hostLinkError(c, err)
		}
	}
	if err := dropRules(c); err != nil {
		return hostLinkError(c, err)
	}
	if err := netlink.RuleAdd(hostRule(c, table)); err != nil {
		return hostLinkError(c, err)
	}
	return nil
}

// hasRoute reports whether the main table leads to a subnet by another link.
func hasRoute(p netip.Prefix, except int) (bool, error) {
	list, err := netlink.RouteList(nil, family(p))
	if err != nil {
		return false, err
	}
	for _, r := range list {
		if r.Dst != nil && r.Dst.String() == p.String() && r.LinkIndex != except {
			return true, nil
		}
	}
	return false, nil
}

func family(p netip.Prefix) int {
	if p.Addr().Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func hostRule(c HostLinkConfig, table int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table = family(c.Address), hostLinkRule, table
	r.Src = ipNet(netip.PrefixFrom(c.Address.Addr(), c.Address.Addr().BitLen()))
	return r
}

// dropRules removes the rules that send what comes from the address by a host's link, also of a link that is gone.
func dropRules(c HostLinkConfig) error {
	list, err := netlink.RuleList(family(c.Address))
	if err != nil {
		return err
	}
	want := hostRule(c, 0)
	for i := range list {
		r := &list[i]
		if r.Priority != hostLinkRule || r.Table < hostLinkTables || r.Src == nil || !r.Src.IP.Equal(want.Src.IP) {
			continue
		}
		if err := netlink.RuleDel(hostRule(c, r.Table)); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// DeleteHostLink removes the link with its routes. One that is gone is no error.
func (h *Host) DeleteHostLink(c HostLinkConfig) error {
	if err := dropRules(c); err != nil {
		return virterr.New(virterr.SystemError, "cannot remove the routing rules of the host's link %s: %w", c.Name, errno(err))
	}
	l, err := netlink.LinkByName(c.Name)
	if err == nil && l.Type() != "macvlan" {
		return virterr.New(virterr.InvalidArg, "interface '%s' is of kind %s and not virtd's to delete", c.Name, l.Type())
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !isMissing(err) {
		return virterr.New(virterr.SystemError, "Unable to delete interface '%s': %w", c.Name, errno(err))
	}
	return nil
}
