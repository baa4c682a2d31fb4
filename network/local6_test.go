package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/rfc1035label"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"virtd/lab/labtest"
	"virtd/network"
	"virtd/network/bridge"
	"virtd/network/portconf"
)

const realSix = `<network><name>six</name><bridge name='tbr6' stp='off'/><domain name='lab.example' localOnly='yes'/>
<dns><srv service='ldap' protocol='tcp' target='web.lab.example' port='389' priority='1' weight='2'/><txt name='info.lab.example' value='hello'/></dns>
<ip family='ipv6' address='fd98::1' prefix='64'><dhcp><range start='fd98::100' end='fd98::1ff'><lease expiry='10' unit='minutes'/></range></dhcp></ip></network>`

// TestRealDHCPv6: a guest hears from the router that addresses are leased, leases one with a stock client, and is known by its
// name; the lease is listed, and survives a restart.
func TestRealDHCPv6(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	n, err := m.Create(realSix)
	ok(t, err)
	t.Cleanup(func() {
		if n.Active() {
			ok(t, n.Destroy())
		}
	})
	g := newGuest(t, "sixth", "52:54:00:00:00:06")
	ok(t, host.Plug("tbr6", "sixth", false))
	var ip net.IP
	g.run(t, func() error {
		if err := waitLinkLocal(); err != nil {
			return err
		}
		reply, err := lease6("web")
		if err != nil {
			return err
		}
		ia := reply.Options.OneIANA()
		if ia == nil || ia.Options.OneAddress() == nil || ia.Options.OneAddress().ValidLifetime != 10*time.Minute {
			return fmt.Errorf("leased %s", reply.Summary())
		}
		ip = ia.Options.OneAddress().IPv6Addr
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(64, 128)}, Flags: 2}) // IFA_F_NODAD
	})
	if !strings.HasPrefix(ip.String(), "fd98::1") || len(ip.String()) != len("fd98::100") {
		t.Errorf("address %s", ip)
	}
	reverse, err := dns.ReverseAddr(ip.String())
	ok(t, err)
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"web.lab.example.", dns.TypeAAAA, ip.String()}, {"web.", dns.TypeAAAA, ip.String()}, {reverse, dns.TypePTR, "web.lab.example."},
		{"_ldap._tcp.lab.example.", dns.TypeSRV, "1 2 389 web.lab.example."}, {"info.lab.example.", dns.TypeTXT, `"hello"`},
		{"nobody.lab.example.", dns.TypeAAAA, "NXDOMAIN"},
	} {
		g.run(t, func() error { return asks("[fd98::1]:53", c.name, c.kind, c.want) })
	}
	g.run(t, func() error { // no address of its own making
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		for _, a := range addrs {
			if strings.HasPrefix(a.IP.String(), "fd98:") && !a.IP.Equal(ip) {
				err = errors.Join(err, fmt.Errorf("the guest made %s of an advertisement that says that addresses are leased", a.IP))
			}
		}
		return err
	})
	host.Services.Close()
	m = openManager(t, localHost(t, dir), dir)
	n, err = m.LookupByName("six")
	ok(t, err)
	leases, err := n.Leases()
	ok(t, err)
	if len(leases) != 1 || leases[0].IP.String() != ip.String() || leases[0].MAC != "52:54:00:00:00:06" || leases[0].Name != "web" || leases[0].Bits != 64 {
		t.Errorf("leases %+v", leases)
	}
	ok(t, n.Destroy())
}

// waitLinkLocal waits until the guest may use its link-local address.
func waitLinkLocal() error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	const tentative = 0x40 // IFA_F_TENTATIVE
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() && a.Flags&tentative == 0 }) {
			return nil
		}
	}
	return errors.New("no link-local address")
}

// lease6 gets an address from the DHCPv6 server of the link.
func lease6(name string) (*dhcpv6.Message, error) {
	c, err := nclient6.New("eth0", nclient6.WithTimeout(2*time.Second), nclient6.WithRetry(5))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	fqdn := dhcpv6.WithOption(&dhcpv6.OptFQDN{DomainName: &rfc1035label.Labels{Labels: []string{name}}})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	adv, err := c.Solicit(ctx, fqdn)
	if err != nil {
		return nil, fmt.Errorf("solicit: %w", err)
	}
	return c.Request(ctx, adv, fqdn)
}

// asks compares the answer to a question with what is wanted.
func asks(server, name string, kind uint16, want string) error {
	conn, err := net.DialTimeout("udp", server, 3*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	m, _, err := (&dns.Client{Timeout: 5 * time.Second}).ExchangeWithConn(new(dns.Msg).SetQuestion(name, kind), &dns.Conn{Conn: conn})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	got := dns.RcodeToString[m.Rcode]
	if len(m.Answer) > 0 {
		got = strings.TrimPrefix(m.Answer[0].String(), m.Answer[0].Header().String())
	}
	if got != want {
		return fmt.Errorf("%s: %s, want %s", name, got, want)
	}
	return nil
}

// TestNothingLeft: many networks and interfaces come and go, and nothing of them stays.
func TestNothingLeft(t *testing.T) { nothingLeft(t, 4, 8) }

// TestLabNothingLeft is the same in numbers: 100 networks and 200 interfaces, fewer in a short run.
func TestLabNothingLeft(t *testing.T) {
	labtest.Need(t, labtest.Tun)
	networks := 100
	if testing.Short() {
		networks = 12
	}
	nothingLeft(t, networks, 2*networks)
}

func nothingLeft(t *testing.T, networks, interfaces int) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	before, had := traces(t, dir), descriptors(t)
	var list []*network.Network
	for i := range networks {
		n, err := m.Define(fmt.Sprintf(`<network><name>n%[1]d</name><forward/><bandwidth><inbound average='1000'/></bandwidth>
<ip address='10.%[2]d.%[3]d.1' prefix='24'><dhcp><range start='10.%[2]d.%[3]d.2' end='10.%[2]d.%[3]d.9'/></dhcp></ip></network>`, i, 100+i/200, i%200))
		ok(t, err)
		ok(t, n.Start())
		list = append(list, n)
	}
	for i := range interfaces {
		n := list[i%networks]
		p, err := m.Connect(network.Request{Network: n.Name(), MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255), Owner: network.Owner{Name: "d"}})
		ok(t, err)
		tap := plugTap(t, host, p.Bridge)
		ok(t, m.Connected(p.UUID, tap.name))
		tap.close()
		ok(t, m.Disconnect(p.UUID))
	}
	if during := traces(t, dir); len(during) <= len(before)+networks {
		t.Errorf("%d networks leave no traces: the test looks at the wrong places", networks)
	}
	for _, n := range list {
		ok(t, n.Destroy())
		ok(t, n.Undefine())
	}
	after := traces(t, dir)
	for end := time.Now().Add(10 * time.Second); len(after) > len(before) && time.Now().Before(end); after = traces(t, dir) {
		time.Sleep(50 * time.Millisecond)
	}
	same(t, after, before)
	for kind, n := range descriptors(t) {
		if n > had[kind] {
			t.Errorf("%d descriptors of %s, before %d", n, kind, had[kind])
		}
	}
}

// traces are the links, rules and files that there are.
func traces(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	links, err := netlink.LinkList()
	ok(t, err)
	for _, l := range links {
		out = append(out, "link "+l.Attrs().Name)
	}
	out = append(out, packetFilter(t)...)
	ok(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, "file "+path)
		}
		return err
	}))
	slices.Sort(out)
	return out
}

// descriptors counts what is open, by kind.
func descriptors(t *testing.T) map[string]int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	counts := map[string]int{}
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil {
			continue // the directory's own
		}
		kind, _, _ := strings.Cut(target, ":")
		counts[kind]++
	}
	return counts
}

// packetFilter lists the chains of virtd's tables.
func packetFilter(t *testing.T) []string {
	t.Helper()
	c, err := nftables.New()
	ok(t, err)
	chains, err := c.ListChains()
	ok(t, err)
	var out []string
	for _, ch := range chains {
		rules, err := c.GetRules(ch.Table, ch)
		ok(t, err)
		out = append(out, fmt.Sprintf("chain %s %s with %d rules", ch.Table.Name, ch.Name, len(rules)))
	}
	return out
}

// hostTap is an open tap.
type hostTap struct {
	name  string
	close func()
}

func plugTap(t *testing.T, host *network.Local, on string) hostTap {
	t.Helper()
	tap, err := host.Links.OpenTap(bridge.TapConfig{Bridge: on, Owner: -1, Bandwidth: portconf.Bandwidth{In: portconf.Rate{Average: 1000}}})
	ok(t, err)
	return hostTap{tap.Name, tap.Close}
}
