package bridge

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// clockTick is the unit of a bridge's times: USER_HZ is 100 on every Linux ABI.
const clockTick = time.Second / 100

// setSTP sets the forward delay and the spanning tree protocol. The delay goes first: with the protocol on the kernel refuses
// short ones instead of making them longer.
func setSTP(c BridgeConfig) error {
	l, err := netlink.LinkByName(c.Name)
	if err == nil {
		err = setBridge(l.Attrs().Index, nl.IFLA_BR_FORWARD_DELAY, uint32(c.Delay/clockTick))
	}
	if err == nil && c.STP {
		err = setBridge(l.Attrs().Index, nl.IFLA_BR_STP_STATE, 1)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to set the spanning tree protocol of bridge %s: %w", c.Name, errno(err))
	}
	return nil
}

// STP reports whether a bridge speaks the spanning tree protocol; false where there is no such bridge.
func STP(name string) bool {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return false
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	list, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return false
	}
	for _, m := range list {
		if v, ok := attribute(m[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, nl.IFLA_BR_STP_STATE); ok && len(v) == 4 {
			return binary.NativeEndian.Uint32(v) != 0
		}
	}
	return false
}

// attribute finds a nested attribute.
func attribute(data []byte, path ...int) ([]byte, bool) {
	for _, kind := range path {
		list, err := nl.ParseRouteAttr(data)
		if err != nil {
			return nil, false
		}
		at := slices.IndexFunc(list, func(a syscall.NetlinkRouteAttr) bool { return int(a.Attr.Type&^unix.NLA_F_NESTED) == kind })
		if at < 0 {
			return nil, false
		}
		data = list[at].Value
	}
	return data, true
}

// setBridge sets one attribute of a bridge, for which the library has no call.
func setBridge(index, attr int, value uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(attr, nl.Uint32Attr(value))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// Route is a subnet that the host reaches through a link.
type Route struct {
	To      netip.Prefix
	Link    string
	Gateway netip.Addr // invalid: none
	Metric  int        // 0: the kernel's
}

// AddAddress gives a link an address with its subnet; one that it has is no error. An IPv6 address is used at once: a bridge
// without ports would never find out whether somebody else has it.
func (h *Host) AddAddress(link string, p netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err == nil {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		err = netlink.AddrReplace(l, a)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to set the address %s of interface '%s': %w", p, link, errno(err))
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// AddRoute adds a route; one that exists is no error.
func (h *Host) AddRoute(r Route) error {
	l, err := netlink.LinkByName(r.Link)
	if err == nil {
		err = netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(r.To), Gw: r.Gateway.AsSlice(), Priority: r.Metric})
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to add the route to %s by %s: %w", r.To, r.Gateway, errno(err))
	}
	return nil
}

// Routes returns the subnets that the host reaches, of both families, without default routes and those of single addresses.
func (h *Host) Routes() ([]Route, error) {
	list, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Unable to list the host's routes: %w", errno(err))
	}
	names := map[int]string{}
	links, err := h.List()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	var out []Route
	for _, r := range list {
		if r.Dst == nil || r.Table != unix.RT_TABLE_MAIN {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		a = a.Unmap()
		if !ok || bits == 0 || bits == a.BitLen() || a.IsLinkLocalUnicast() || a.IsMulticast() {
			continue
		}
		out = append(out, Route{To: netip.PrefixFrom(a, bits), Link: names[r.LinkIndex]})
	}
	return out, nil
}
