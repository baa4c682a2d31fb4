package network_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"virtd/network"
	"virtd/network/bridge"
)

// Who reaches whom is told by rows: "one > world: itself host" says that the second machine sees the first one's questions come
// from its own address by IPv4, and from the host's address towards it by IPv6; "-" that there is no way. Each is tried by ping,
// TCP and UDP.

// party is a machine with its addresses of both families.
type party struct {
	*guest
	at [2]netip.Addr
}

// matrix are the machines by name, and the addresses that the host has towards each.
type matrix struct {
	parties map[string]party
	host    map[string][2]netip.Addr
}

func newMatrix(t *testing.T) *matrix {
	m := &matrix{parties: map[string]party{}, host: map[string][2]netip.Addr{}}
	host := thisHost(t)
	host.answer(t)
	m.parties["host"] = party{guest: host}
	return m
}

// add makes a machine known, which answers questions from now on.
func (m *matrix) add(t *testing.T, name string, g *guest, at, host [2]netip.Addr) {
	t.Helper()
	g.answer(t)
	m.parties[name], m.host[name] = party{g, at}, host
}

func addrs(four, six string) [2]netip.Addr {
	return [2]netip.Addr{netip.MustParseAddr(four), netip.MustParseAddr(six)}
}

// check tries all rows, some at once.
func (m *matrix) check(t *testing.T, rows string) {
	t.Helper()
	turn := make(chan bool, 32)
	type attempt struct {
		what, want string
		got        <-chan outcome
	}
	var all []attempt
	for row := range strings.Lines(rows) {
		who, seen, _ := strings.Cut(strings.TrimSpace(row), ":")
		from, to, _ := strings.Cut(who, " > ")
		for family, want := range strings.Fields(seen) {
			at := m.parties[to].at[family]
			if to == "host" {
				at = m.host[from][family]
			}
			switch want {
			case "itself":
				want = m.parties[from].at[family].String()
				if from == "host" {
					want = m.host[to][family].String()
				}
			case "host":
				want = m.host[to][family].String()
			}
			patience := 30 * time.Second // of a busy machine
			if want == "-" {
				patience = time.Second
			}
			for _, how := range []string{"ping", "tcp", "udp"} {
				all = append(all, attempt{fmt.Sprintf("%s by %s to %s", who, how, at), want,
					m.parties[from].async(func() (string, error) {
						turn <- true
						defer func() { <-turn }()
						return ask(how, at, patience)
					})})
			}
		}
	}
	if len(all) == 0 {
		t.Fatal("nothing to try")
	}
	for _, a := range all {
		got := <-a.got
		pinged := strings.Contains(a.what, "ping") && got.err == nil
		switch {
		case a.want == "-" && got.err == nil:
			t.Errorf("%s: there is a way, seen as %q", a.what, got.seen)
		case a.want != "-" && (got.err != nil || got.seen != a.want && !pinged):
			t.Errorf("%s: seen as %q, %v; want %s", a.what, got.seen, got.err, a.want)
		}
	}
}

// plug is an interface of a domain on a network: a port, with a tap or macvtap as the driver makes it, and a machine behind it.
func plug(t *testing.T, m *network.Manager, host *network.Local, name, domain, mac string) *guest {
	t.Helper()
	p, err := m.Connect(network.Request{Network: name, MAC: mac, Owner: network.Owner{Name: domain}})
	ok(t, err)
	t.Cleanup(func() { ok(t, m.Disconnect(p.UUID)) })
	hw, err := net.ParseMAC(mac)
	ok(t, err)
	var tap *bridge.Tap
	if p.Dev != "" {
		tap, err = host.Links.OpenMacvtap(bridge.MacvtapConfig{Parent: p.Dev, Mode: bridge.MacvtapMode(p.Mode), MAC: hw})
	} else {
		tap, err = host.Links.OpenTap(bridge.TapConfig{Bridge: p.Bridge, MAC: hw, Isolated: p.Isolated, Owner: -1})
	}
	ok(t, err)
	t.Cleanup(func() { tap.Close(); ok(t, host.Links.Delete(tap.Name)) })
	ok(t, m.Connected(p.UUID, tap.Name))
	return newTapGuest(t, tap, mac)
}

// servedXML takes a network's name, <forward>, bridge and a number for its subnets.
const servedXML = `<network><name>%s</name>%s<bridge name='%s' stp='off'/><domain name='lab.example' localOnly='yes'/>
<ip address='10.%d.0.1' prefix='24'><dhcp><range start='10.%[4]d.0.50' end='10.%[4]d.0.60'/></dhcp></ip>
<ip family='ipv6' address='fd%[4]d::1' prefix='64'/></network>`

// served gives machines what their network offers, all at once: each an address by DHCP, with its name, and one that it makes
// of an advertisement.
func served(t *testing.T, machines map[string]*guest) map[string][2]netip.Addr {
	t.Helper()
	out, waiting := map[string][2]netip.Addr{}, map[string]<-chan outcome{}
	for name, g := range machines {
		waiting[name] = g.async(func() (string, error) {
			ack, err := useLease(strings.ReplaceAll(name, ".", "-"))
			if err != nil {
				return "", err
			}
			six, err := waitGlobal()
			return ack.YourIPAddr.String() + " " + six.String(), err
		})
	}
	for name, w := range waiting {
		o := <-w
		if o.err != nil {
			t.Fatalf("%s: %v", name, o.err)
		}
		four, six, _ := strings.Cut(o.seen, " ")
		out[name] = addrs(four, six)
	}
	return out
}

// waitGlobal waits for an address that can be used beyond the link.
func waitGlobal() (netip.Addr, error) {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return netip.Addr{}, err
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		list, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return netip.Addr{}, err
		}
		for _, a := range list {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.IsLinkLocalUnicast() && ip.Is6() {
				return ip, nil
			}
		}
	}
	return netip.Addr{}, errors.New("no address from a router advertisement")
}

// outside is a machine on another network of the host, to which everything the host forwards can go.
func (m *matrix) outside(t *testing.T) {
	t.Helper()
	world := newGuest(t, "uplink", "52:54:00:00:00:99")
	t.Cleanup(func() { dropLink(t, "uplink") })
	setAddresses(t, "uplink", "192.0.2.1/24", "2001:db8::1/64")
	world.static(t, "192.0.2.2/24", "2001:db8::2/64")
	world.run(t, func() error {
		return errors.Join(defaultRoute("192.0.2.1"), defaultRoute("2001:db8::1"))
	})
	m.add(t, "world", world, addrs("192.0.2.2", "2001:db8::2"), addrs("192.0.2.1", "2001:db8::1"))
}

func dropLink(t *testing.T, name string) {
	t.Helper()
	if l, err := netlink.LinkByName(name); err == nil {
		ok(t, netlink.LinkDel(l))
	}
}

// setAddresses gives a link of the calling thread's namespace addresses that it may use at once.
func setAddresses(t *testing.T, link string, cidrs ...string) {
	t.Helper()
	ok(t, addAddresses(link, cidrs...))
}

func addAddresses(link string, cidrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	for _, cidr := range cidrs {
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = 2 // IFA_F_NODAD
		}
		if err := netlink.AddrReplace(l, a); err != nil {
			return err
		}
	}
	return nil
}

func (g *guest) static(t *testing.T, cidrs ...string) {
	t.Helper()
	g.run(t, func() error { return addAddresses("eth0", cidrs...) })
}

// defaultRoute is by a gateway, in the calling thread's namespace.
func defaultRoute(by string) error {
	gw, bits := net.ParseIP(by), 128
	if v4 := gw.To4(); v4 != nil {
		gw, bits = v4, 32
	}
	return netlink.RouteReplace(&netlink.Route{Gw: gw, Dst: &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}})
}

// TestMatrix: for each mode of a network with a bridge of its own, who reaches whom, and what the network serves. The networks
// are there at the same time.
func TestMatrix(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	all := newMatrix(t)
	all.outside(t)
	modes := []struct{ name, forward, rows string }{
		{"other", "<forward/>", ""},
		{"nat", "<forward mode='nat'/>", `
			one > world: host itself
			world > one: - itself
			other.one > one: - itself
			one > other.one: - itself`},
		{"nat6", "<forward mode='nat'><nat ipv6='yes'><port start='20000' end='30000'/></nat></forward>", `
			one > world: host host
			world > one: - -
			other.one > one: - -
			one > other.one: - host`},
		{"natdev", "<forward mode='nat' dev='uplink'/>", `
			one > world: host itself
			world > one: - itself
			other.one > one: - -
			one > other.one: - -`},
		{"route", "<forward mode='route'/>", `
			one > world: itself itself
			world > one: itself itself
			other.one > one: host itself
			one > other.one: - itself`},
		{"open", "<forward mode='open'/>", `
			one > world: itself itself
			world > one: itself itself
			other.one > one: host itself
			one > other.one: - itself`},
		{"isolated", "", `
			one > world: - -
			world > one: - -
			other.one > one: - -
			one > other.one: - -
			one > nat.one: - -`},
	}
	machines, towards := map[string]*guest{}, map[string][2]netip.Addr{}
	for i, c := range modes {
		n, err := m.Create(fmt.Sprintf(servedXML, c.name, c.forward, "tbr"+c.name, 90+i))
		ok(t, err)
		t.Cleanup(func() { ok(t, n.Destroy()) })
		for k, name := range []string{c.name + ".one", c.name + ".two"} {
			machines[name] = plug(t, m, host, c.name, name, fmt.Sprintf("52:54:00:00:%02x:%02x", i, k))
			towards[name] = addrs(fmt.Sprintf("10.%d.0.1", 90+i), fmt.Sprintf("fd%d::1", 90+i))
		}
	}
	rows := ""
	for name, at := range served(t, machines) {
		all.add(t, name, machines[name], at, towards[name])
		checkOffer(t, all.parties[name], strings.ReplaceAll(name, ".", "-"), towards[name], !strings.HasPrefix(name, "isolated"))
		machines[name].run(t, func() error { // what a guest decides by itself keeps nobody in
			return errors.Join(defaultRoute(towards[name][0].String()), defaultRoute(towards[name][1].String()))
		})
	}
	for _, c := range modes[1:] {
		rows += strings.NewReplacer(" one", " "+c.name+".one", "\tone", "\t"+c.name+".one", "two", c.name+".two").Replace(
			"\tone > two: itself itself\n\tone > host: itself itself\n\thost > one: itself itself" + c.rows + "\n")
	}
	all.check(t, rows)
	world := all.parties["world"]
	world.run(t, func() error { return deaf("10.94.0.1:53", "192.0.2.1:53", "[fd94::1]:53", "[2001:db8::1]:53") })
}

// checkOffer looks at names, and at what the machine was told of ways out.
func checkOffer(t *testing.T, p party, name string, server [2]netip.Addr, router bool) {
	t.Helper()
	reverse, err := dns.ReverseAddr(p.at[0].String())
	ok(t, err)
	for _, s := range server {
		at := netip.AddrPortFrom(s, 53).String()
		p.run(t, func() error {
			return errors.Join(asks(at, name+".lab.example.", dns.TypeA, p.at[0].String()), asks(at, reverse, dns.TypePTR, name+".lab.example."),
				asks(at, "nobody.lab.example.", dns.TypeA, "NXDOMAIN"))
		})
	}
	p.run(t, func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteList(nil, family)
			if err != nil {
				return err
			}
			if there := slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw != nil }); there != router {
				return fmt.Errorf("%s has a way out: %v, want %v: %v", name, there, router, routes)
			}
		}
		return nil
	})
}

// deaf reports servers of names that answer in the calling thread's namespace.
func deaf(servers ...string) error {
	var errs []error
	for _, s := range servers {
		conn, err := net.DialTimeout("udp", s, time.Second)
		if err != nil {
			continue
		}
		client := &dns.Client{Timeout: 150 * time.Millisecond}
		if _, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion("one.lab.example.", dns.TypeA), &dns.Conn{Conn: conn}); err == nil {
			errs = append(errs, fmt.Errorf("who is not on the network is answered by %s", s))
		}
		conn.Close()
	}
	return errors.Join(errs...)
}
