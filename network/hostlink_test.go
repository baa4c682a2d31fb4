package network_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"virtd/network"
)

// Guests on macvtaps reach their host by its own link beside them, and the host's connections by the device go on as before.
func TestHostLinkReachesGuests(t *testing.T) {
	host := localHost(t, shortDir(t))
	for _, setting := range []string{"all", "default"} { // as hosts have it that check where packets come from
		ok(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+setting+"/rp_filter", []byte("1"), 0))
	}
	outside := newGuest(t, "wire0", "52:54:00:00:00:99")
	t.Cleanup(func() { host.Links.Delete("wire0") })
	device, err := netlink.LinkByName("wire0")
	ok(t, err)
	t.Cleanup(func() { netlink.LinkDel(device) })
	ok(t, netlink.AddrAdd(device, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(203, 0, 113, 1), Mask: net.CIDRMask(24, 32)}}))
	outside.address(t, "203.0.113.9/24")
	tellWho(t, outside, ":80")
	macvlan := newMacvlanGuest(t, device, "203.0.113.200/24")
	tellWho(t, macvlan, ":80")
	l, err := net.Listen("tcp", ":8080")
	ok(t, err)
	defer l.Close()
	go answerWho(l)

	if _, err := macvlan.tcp("203.0.113.1:8080", unanswered); err == nil {
		t.Fatal("the guest reaches its host without any help: nothing to show here")
	}
	m := openManager(t, host, t.TempDir())
	text := strings.Replace(poolXML("lan", "bridge", "wire0"), "<forward", hostMetadata("203.0.113.5/24", "203.0.113.192/26")+"<forward", 1)
	n, err := m.Create(text)
	ok(t, err)
	link := network.HostLinkName(n.UUID())
	for range 2 { // and again, as the next virtd does
		if who, err := macvlan.tcp("203.0.113.5:8080", answered); err != nil || who != "203.0.113.200" {
			t.Errorf("guest to host: %q, %v", who, err)
		}
		if who, err := dialWho("203.0.113.200:80"); err != nil || who != "203.0.113.5" {
			t.Errorf("host to guest: %q, %v", who, err)
		}
		if who, err := dialWho("203.0.113.9:80"); err != nil || who != "203.0.113.1" {
			t.Errorf("the host's own connection: %q, %v", who, err)
		}
		if who, err := outside.tcp("203.0.113.1:8080", answered); err != nil || who != "203.0.113.9" {
			t.Errorf("outside to host: %q, %v", who, err)
		}
		if who, err := macvlan.tcp("203.0.113.9:80", answered); err != nil || who != "203.0.113.200" {
			t.Errorf("guest to outside: %q, %v", who, err)
		}
		ok(t, host.HostLinkUp(network.Spec{UUID: n.UUID(), Device: "wire0", HostLink: netip.MustParsePrefix("203.0.113.5/24"),
			HostLinkFor: []netip.Prefix{netip.MustParsePrefix("203.0.113.192/26")}}))
	}
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	ok(t, err)
	ok(t, n.Destroy())
	if _, err := netlink.LinkByName(link); err == nil {
		t.Error("the host's link is left")
	}
	if now, err := netlink.RuleList(netlink.FAMILY_V4); err != nil || len(now) != len(rules)-1 {
		t.Errorf("%d routing rules, with the network %d, %v", len(now), len(rules), err)
	}
	if who, err := dialWho("203.0.113.9:80"); err != nil || who != "203.0.113.1" {
		t.Errorf("the host's own connection afterwards: %q, %v", who, err)
	}
	if _, err := m.Create(strings.Replace(text, "203.0.113.5", "203.0.113.1", 1)); err == nil || !strings.Contains(err.Error(), "203.0.113.1 is an address of wire0 already") {
		t.Errorf("an address that the host has: %v", err)
	}
	if list := m.List(network.ListActive); len(list) != 0 {
		t.Errorf("active: %v", list)
	}
}

// address gives the machine an address.
func (g *guest) address(t *testing.T, cidr string) {
	t.Helper()
	g.run(t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		return netlink.AddrReplace(l, a)
	})
}

// newMacvlanGuest is a machine whose interface is a macvlan on a device, as a macvtap's guest is.
func newMacvlanGuest(t *testing.T, device netlink.Link, cidr string) *guest {
	t.Helper()
	g := newGuest(t, "spare0", "52:54:00:00:00:77")
	t.Cleanup(func() {
		if l, err := netlink.LinkByName("spare0"); err == nil {
			netlink.LinkDel(l)
		}
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "mv0", device.Attrs().Index
	ok(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	l, err := netlink.LinkByName("mv0")
	ok(t, err)
	ok(t, netlink.LinkSetNsFd(l, g.fd))
	g.run(t, func() error {
		old, err := netlink.LinkByName("eth0")
		if err == nil {
			err = netlink.LinkDel(old)
		}
		l, lerr := netlink.LinkByName("mv0")
		if err = errors.Join(err, lerr); err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetName(l, "eth0"), netlink.LinkSetUp(l))
	})
	g.address(t, cidr)
	return g
}

// dialWho is guest.tcp from the host.
func dialWho(to string) (string, error) {
	conn, err := net.DialTimeout("tcp", to, answered)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(answered))
	text, err := io.ReadAll(conn)
	return string(text), err
}

// answerWho tells everybody who connects which address that came from.
func answerWho(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		io.WriteString(conn, strings.TrimPrefix(host, "::ffff:"))
		conn.Close()
	}
}
