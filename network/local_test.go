package network_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/network"
	"virtd/network/bridge"
	"virtd/network/services"
)

// TestMain runs the tests in a network namespace of their own, where there is the right to make one, and is the services of a
// network when the supervisor starts this program as such.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == services.Role {
		fmt.Fprintln(os.Stderr, services.Run())
		os.Exit(1)
	}
	const inside = "VIRTD_TEST_NAMESPACE"
	if os.Getenv(inside) != "" {
		lookAtLoopback()
	}
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil { // no right to namespaces: the tests that need one say so
		os.Exit(m.Run())
	}
	os.Exit(0)
}

// lookAtLoopback has Go find out which families of addresses there are, which it does once in a process, where both are. Its
// first look could be that of a thread in a namespace without any.
func lookAtLoopback() {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err == nil {
		var l net.Listener
		if l, err = net.Listen("tcp6", "[::1]:0"); err == nil {
			err = l.Close()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests' namespace has no IPv6 loopback:", err)
	}
}

// localHost is the real host, within the tests' namespace.
func localHost(t *testing.T, dir string) *network.Local {
	t.Helper()
	if os.Getenv("VIRTD_TEST_NAMESPACE") == "" {
		t.Skip("needs the right to make a network namespace (root)")
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := services.NewSupervisor(services.Options{
		Program: "/proc/self/exe", Run: filepath.Join(dir, "svc"), Leases: filepath.Join(dir, "leases"), Logs: filepath.Join(dir, "log"), Log: log,
	})
	ok(t, err)
	t.Cleanup(s.Close)
	return &network.Local{Links: &bridge.Host{}, Services: s, Log: log}
}

// shortDir is a directory whose name leaves room for the name of a socket.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "net")
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// guest is a machine with one interface: a network namespace of its own, entered by one thread that does what it is told.
type guest struct {
	do chan func()
	fd int
}

// newMachine makes one without an interface.
func newMachine(t *testing.T) *guest {
	t.Helper()
	g := &guest{do: make(chan func())}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine, and the namespace with the thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			g.fd, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		for f := range g.do {
			f()
		}
	}()
	ok(t, <-ready)
	t.Cleanup(func() { close(g.do); unix.Close(g.fd) })
	return g
}

// newGuest makes one whose interface's other end is called port.
func newGuest(t *testing.T, port, mac string) *guest {
	t.Helper()
	g := newMachine(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = port
	hw, err := net.ParseMAC(mac)
	ok(t, err)
	ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: hw, PeerNamespace: netlink.NsFd(g.fd)}))
	host, err := netlink.LinkByName(port)
	ok(t, err)
	ok(t, netlink.LinkSetUp(host))
	g.up(t, "eth0")
	return g
}

// up switches on one of the guest's interfaces, and its own.
func (g *guest) up(t *testing.T, name string) {
	t.Helper()
	g.run(t, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		lo, lerr := netlink.LinkByName("lo")
		return errors.Join(err, lerr, netlink.LinkSetUp(lo))
	})
}

func (g *guest) run(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	g.do <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// lease asks for an address by DHCP and uses it. The client works on raw packets and checks their checksums.
func (g *guest) lease(t *testing.T, name string) (ack *dhcpv4.DHCPv4) {
	t.Helper()
	g.run(t, func() (err error) {
		ack, err = useLease(name)
		return err
	})
	return ack
}

// useLease does what lease says in the calling thread's namespace.
func useLease(name string) (*dhcpv4.DHCPv4, error) {
	c, err := nclient4.New("eth0", nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(5))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	l, err := c.Request(context.Background(), dhcpv4.WithOption(dhcpv4.OptHostName(name)))
	if err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: l.ACK.YourIPAddr, Mask: l.ACK.SubnetMask()}}); err != nil {
		return nil, err
	}
	if r := l.ACK.Router(); len(r) > 0 {
		return l.ACK, netlink.RouteReplace(&netlink.Route{Gw: r[0], Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	}
	return l.ACK, nil
}

// Patience with an answer that comes, on a machine with other work, and with one that must not come.
const (
	answered   = 20 * time.Second
	unanswered = 3 * time.Second
)

// tcp connects from the guest and returns the address that the other side sees it come from.
func (g *guest) tcp(to string, patience time.Duration) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	g.do <- func() {
		conn, err := net.DialTimeout("tcp", to, patience)
		if err != nil {
			done <- result{"", err}
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		text, err := io.ReadAll(conn)
		done <- result{string(text), err}
	}
	r := <-done
	return r.text, r.err
}

// tellWho listens and tells everybody who connects which address that came from.
func tellWho(t *testing.T, g *guest, at string) {
	t.Helper()
	g.run(t, func() error {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
				io.WriteString(conn, host)
				conn.Close()
			}
		}()
		return nil
	})
}

const realNAT = `<network><name>real</name><forward mode='nat'/><bridge name='tbr0' stp='off'/><domain name='lab.example' localOnly='yes'/>
<dns><host ip='10.99.0.1'><hostname>gw</hostname></host></dns>
<ip address='10.99.0.1' prefix='24'><dhcp><range start='10.99.0.50' end='10.99.0.60'/>
<host mac='52:54:00:00:00:02' name='fixed' ip='10.99.0.7'/></dhcp></ip><ip family='ipv6' address='fd99::1' prefix='64'/></network>`

// TestRealNetwork: guests on a real bridge get addresses and names, reach each other and the world behind NAT, are out of
// reach from there, and notice nothing of a restart of virtd; after the stop nothing is left.
func TestRealNetwork(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	n, err := m.Create(realNAT)
	ok(t, err)
	t.Cleanup(func() {
		if n.Active() {
			ok(t, n.Destroy())
		}
	})
	one, two := newGuest(t, "one", "52:54:00:00:00:01"), newGuest(t, "two", "52:54:00:00:00:02")
	for _, port := range []string{"one", "two"} {
		ok(t, host.Plug("tbr0", port, false))
	}
	if ip := one.lease(t, "alice").YourIPAddr.String(); ip < "10.99.0.50" || ip > "10.99.0.60" {
		t.Errorf("guest got %s", ip)
	}
	if ip := two.lease(t, "bob").YourIPAddr.String(); ip != "10.99.0.7" {
		t.Errorf("static host got %s", ip)
	}
	checkNames(t, one)
	world := worldBehind(t)
	tellWho(t, world, "192.0.2.2:80")
	tellWho(t, two, "10.99.0.7:80")
	if from, err := one.tcp("192.0.2.2:80", answered); err != nil || from != "192.0.2.1" {
		t.Errorf("the world sees the guest as %q, %v", from, err)
	}
	if from, err := one.tcp("10.99.0.7:80", answered); err != nil || !strings.HasPrefix(from, "10.99.0.5") && from != "10.99.0.60" {
		t.Errorf("a guest sees the other as %q, %v", from, err)
	}
	if from, err := world.tcp("10.99.0.7:80", unanswered); err == nil {
		t.Errorf("the world reaches a guest behind NAT, as %s", from)
	}
	one.run(t, func() error { return waitSLAAC("fd99:") })

	leases, err := n.Leases()
	ok(t, err)
	host.Services.Close()
	m = openManager(t, localHost(t, dir), dir) // as the next virtd
	n, err = m.LookupByName("real")
	ok(t, err)
	again, err := n.Leases()
	if err != nil || len(again) != 2 || len(leases) != 2 {
		t.Errorf("leases %+v, after a restart %+v, %v", leases, again, err)
	}
	if from, err := one.tcp("192.0.2.2:80", answered); err != nil || from != "192.0.2.1" {
		t.Errorf("after a restart the world sees the guest as %q, %v", from, err)
	}
	ok(t, n.Destroy())
	links, err := host.Links.List()
	ok(t, err)
	for _, l := range links {
		if l.Name == "tbr0" {
			t.Error("the bridge is left")
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "svc")); len(left) != 0 {
		t.Errorf("left of the services: %v", left)
	}
}

// worldBehind is another machine, on another network of the host.
func worldBehind(t *testing.T) *guest {
	t.Helper()
	world := newGuest(t, "uplink", "52:54:00:00:00:99")
	up, err := netlink.LinkByName("uplink")
	ok(t, err)
	ok(t, netlink.AddrAdd(up, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}}))
	world.run(t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 2), Mask: net.CIDRMask(24, 32)}}); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 1)})
	})
	return world
}

// checkNames asks the network's resolver as a guest.
func checkNames(t *testing.T, g *guest) {
	t.Helper()
	for _, c := range []struct {
		name string
		kind uint16
		tcp  bool
		want string
	}{
		{"gw.lab.example.", dns.TypeA, false, "10.99.0.1"},
		{"fixed.", dns.TypeA, true, "10.99.0.7"},
		{"7.0.99.10.in-addr.arpa.", dns.TypePTR, false, "fixed.lab.example."},
		{"nobody.lab.example.", dns.TypeA, false, "NXDOMAIN"},
	} {
		g.run(t, func() error {
			network := map[bool]string{false: "udp", true: "tcp"}[c.tcp]
			conn, err := net.DialTimeout(network, "10.99.0.1:53", 3*time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			client := &dns.Client{Net: network, Timeout: 5 * time.Second}
			m, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(c.name, c.kind), &dns.Conn{Conn: conn})
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			got := dns.RcodeToString[m.Rcode]
			if len(m.Answer) > 0 {
				got = strings.TrimPrefix(m.Answer[0].String(), m.Answer[0].Header().String())
			}
			if got != c.want {
				return fmt.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
			return nil
		})
	}
}

// waitSLAAC waits for an address that the kernel made from an advertisement.
func waitSLAAC(prefix string) error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && strings.HasPrefix(ip.String(), prefix) {
				return nil
			}
		}
	}
	return errors.New("no IPv6 address from a router advertisement")
}

// TestServicesComeBack: services that are killed are there again, with the leases they gave.
func TestServicesComeBack(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	n, err := m.Create(strings.ReplaceAll(realNAT, "tbr0", "tbr1"))
	ok(t, err)
	t.Cleanup(func() { ok(t, n.Destroy()) })
	g := newGuest(t, "three", "52:54:00:00:00:03")
	ok(t, host.Plug("tbr1", "three", false))
	before := g.lease(t, "carol")
	record, err := os.ReadFile(filepath.Join(dir, "svc", n.UUID().String(), "record.json"))
	ok(t, err)
	var pid, uid int
	for _, f := range []struct {
		key string
		to  *int
	}{{`"pid":`, &pid}, {`"uid":`, &uid}} {
		_, rest, _ := strings.Cut(string(record), f.key)
		if _, err := fmt.Sscan(strings.FieldsFunc(rest, func(r rune) bool { return r == ',' })[0], f.to); err != nil {
			t.Fatal(err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	ok(t, err)
	for _, want := range []string{fmt.Sprintf("Uid:\t%d\t", uid), "NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the services lack %q:\n%s", want, status)
		}
	}
	ok(t, unix.Kill(pid, unix.SIGKILL))
	var leases int
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && leases == 0; time.Sleep(50 * time.Millisecond) {
		if list, err := n.Leases(); err == nil {
			leases = len(list)
		}
	}
	if leases != 1 {
		t.Fatalf("%d leases after the services were killed", leases)
	}
	if after := g.lease(t, "carol"); !after.YourIPAddr.Equal(before.YourIPAddr) {
		t.Errorf("the guest had %s and now gets %s", before.YourIPAddr, after.YourIPAddr)
	}
}
