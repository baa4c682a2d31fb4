package network_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestForwardingKeepsRouters: a host that has its IPv6 router from an advertisement keeps it when a network makes it forward.
func TestForwardingKeepsRouters(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	const forwarding = "/proc/sys/net/ipv6/conf/all/forwarding"
	ok(t, os.WriteFile(forwarding, []byte("0"), 0))
	router := newGuest(t, "upra", "52:54:00:00:00:98")
	t.Cleanup(func() { dropLink(t, "upra") })
	learned := func() bool {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V6)
		ok(t, err)
		l, err := netlink.LinkByName("upra")
		ok(t, err)
		return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw != nil && r.LinkIndex == l.Attrs().Index })
	}
	for end := time.Now().Add(20 * time.Second); !learned(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the kernel learns no router from an advertisement")
		}
		router.run(t, advertiseRouter)
	}
	n, err := openManager(t, host, dir).Create(fmt.Sprintf(servedXML, "forwards", "<forward mode='open'/>", "tbrf", 93))
	ok(t, err)
	t.Cleanup(func() { ok(t, n.Destroy()) })
	if on, err := os.ReadFile(forwarding); err != nil || strings.TrimSpace(string(on)) != "1" {
		t.Errorf("forwarding: %q, %v", on, err)
	}
	if !learned() {
		t.Error("the host lost its router")
	}
}

// advertiseRouter sends an advertisement (RFC 4861, 4.2) of a router with half an hour to live.
func advertiseRouter() error {
	if err := waitLinkLocal(); err != nil {
		return err
	}
	conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = multicastHops(int(fd), 255) })
	if err = errors.Join(err, set); err != nil {
		return err
	}
	_, err = conn.WriteTo([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "eth0"})
	return err
}

func multicastHops(fd, hops int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, hops)
}
