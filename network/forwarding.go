package network

import (
	"errors"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// forward lets the host forward packets of the families that a network has.
func (l *Local) forward(network string, four, six bool) error {
	if four {
		if err := l.enable("/proc/sys/net/ipv4/ip_forward", network); err != nil {
			return err
		}
	}
	if !six {
		return nil
	}
	const all = "/proc/sys/net/ipv6/conf/all/forwarding"
	if on, err := switchedOn(all); err != nil || !on {
		if err := l.keepRouters(network); err != nil {
			return err
		}
	}
	return l.enable(all, network)
}

// enable sets a switch of the kernel that guests cannot reach the world without, and says so.
func (l *Local) enable(path, network string) error {
	on, err := switchedOn(path)
	if on {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte("1"), 0)
	}
	if err != nil {
		return virterr.NewFrom(virterr.FromNetwork, virterr.SystemError, "failed to enable IP forwarding for network '%s': %w", network, err)
	}
	l.Log.Info("this host forwards packets from now on, because a network needs it", "network", network, "setting", path)
	return nil
}

func switchedOn(path string) (bool, error) {
	now, err := os.ReadFile(path)
	return err == nil && strings.TrimSpace(string(now)) != "0", err
}

// keepRouters keeps the host's way to the world: a kernel that begins to forward IPv6 forgets the routers and addresses that it
// learned from advertisements, unless a link's accept_ra is 2 (Documentation/networking/ip-sysctl.rst).
func (l *Local) keepRouters(network string) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return virterr.NewFrom(virterr.FromNetwork, virterr.SystemError, "cannot tell whether the host learned its IPv6 routers by itself (for network '%s'): %w", network, err)
	}
	for _, r := range routes {
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue // gone meanwhile
		}
		path := "/proc/sys/net/ipv6/conf/" + strings.ReplaceAll(link.Attrs().Name, "/", ".") + "/accept_ra"
		now, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(now)) == "1" {
			if err = os.WriteFile(path, []byte("2"), 0); err == nil {
				l.Log.Info("this link goes on to take routers' advertisements although the host forwards packets", "network", network, "setting", path, "value", 2)
			}
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return virterr.NewFrom(virterr.FromNetwork, virterr.SystemError,
				"network '%s' needs IPv6 forwarding, which would cost the host its route by %s, learned from a router: %w (set net.ipv6.conf.%[2]s.accept_ra to 2)",
				network, link.Attrs().Name, err)
		}
	}
	return nil
}
