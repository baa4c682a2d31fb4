package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/network/bridge"
	"virtd/virterr"
)

// TestMain runs the tests in a network namespace of their own, whole, because changes are taken back by timers of other threads.
func TestMain(m *testing.M) {
	const inside = "VIRTD_TEST_NAMESPACE"
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
	if err != nil {
		os.Exit(m.Run())
	}
	os.Exit(0)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// uplink gives the host a link, eth9, with addresses and a gateway behind it that answers.
func uplink(t *testing.T) {
	t.Helper()
	if os.Getenv("VIRTD_TEST_NAMESPACE") == "" {
		t.Skip("needs the right to make a network namespace (root)")
	}
	ready, end := make(chan error, 1), make(chan bool)
	var ns int
	go func() {
		runtime.LockOSThread() // and never unlocks: the namespace ends with the thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		<-end
		var l netlink.Link
		if l, err = netlink.LinkByName("gw0"); err == nil {
			err = errors.Join(netlink.LinkSetUp(l), netlink.AddrAdd(l, address4("192.0.2.254/24")))
		}
		ready <- err
		<-end
	}()
	ok(t, <-ready)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth9"
	ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "gw0", PeerNamespace: netlink.NsFd(ns)}))
	end <- true
	ok(t, <-ready)
	l, err := netlink.LinkByName("eth9")
	ok(t, err)
	t.Cleanup(func() { close(end); unix.Close(ns); netlink.LinkDel(l) })
	ok(t, netlink.LinkSetUp(l))
	ok(t, netlink.AddrAdd(l, address4("192.0.2.1/24")))
	ok(t, netlink.AddrAdd(l, address4("192.0.2.2/24")))
	six := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("2001:db8::1"), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
	ok(t, netlink.AddrAdd(l, six))
	_, other, err := net.ParseCIDR("198.51.100.0/24")
	ok(t, err)
	for _, r := range []*netlink.Route{
		{LinkIndex: l.Attrs().Index, Gw: net.IPv4(192, 0, 2, 254), Priority: 100, Protocol: unix.RTPROT_STATIC},
		{LinkIndex: l.Attrs().Index, Gw: net.IPv4(192, 0, 2, 254), Dst: other, Src: net.IPv4(192, 0, 2, 2)},
		{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(203, 0, 113, 7), Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK, Table: 77},
	} {
		ok(t, netlink.RouteAdd(r))
	}
}

func address4(text string) *netlink.Addr {
	a, err := netlink.ParseAddr(text)
	if err != nil {
		panic(err)
	}
	return a
}

// state is where the host's addresses and routes are.
func state(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	ok(t, err)
	var out []string
	for _, l := range links {
		if l.Attrs().Name == "lo" {
			continue
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		ok(t, err)
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				out = append(out, l.Attrs().Name+" has "+a.IPNet.String())
			}
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: l.Attrs().Index}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		ok(t, err)
		more, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 77}, netlink.RT_FILTER_TABLE)
		ok(t, err)
		for _, r := range append(routes, more...) {
			if r.LinkIndex == l.Attrs().Index && r.Protocol != unix.RTPROT_KERNEL {
				out = append(out, fmt.Sprintf("%s routes %s gw %s src %s metric %d table %d", l.Attrs().Name, r.Dst, r.Gw, r.Src, r.Priority, r.Table))
			}
		}
		if l.Attrs().MasterIndex != 0 {
			out = append(out, l.Attrs().Name+" is a port")
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), "\n")
}

func newChanger(t *testing.T, dir string) *Changer {
	t.Helper()
	s, err := Open(Config{Links: &bridge.Host{}, Run: dir, Log: slog.New(slog.DiscardHandler), Owner: func(name string) string {
		if name == "virbr0" {
			return "default"
		}
		return ""
	}})
	ok(t, err)
	t.Cleanup(s.Close)
	return s
}

// TestMove: a link with the host's addresses becomes a port, and everything is on the bridge as it was on the link; on the way
// back it is as before.
func TestMove(t *testing.T) {
	uplink(t)
	before := state(t)
	dir := t.TempDir()
	s := newChanger(t, dir)
	ok(t, s.Create(bridge.BridgeConfig{Name: "br9"}))
	t.Cleanup(func() { s.cfg.Links.Delete("br9") })
	pending, err := s.AddPort("br9", "eth9", 30*time.Second)
	ok(t, err)
	moved := strings.ReplaceAll(before, "eth9 ", "br9 ") + "\neth9 is a port"
	if got := state(t); got != moved || !pending {
		t.Errorf("pending %v\n%s\nwant\n%s", pending, got, moved)
	}
	port, err := s.cfg.Links.Link("eth9")
	ok(t, err)
	br, err := s.cfg.Links.Link("br9")
	ok(t, err)
	if br.MAC.String() != port.MAC.String() {
		t.Errorf("the bridge has the address %s and not its port's %s", br.MAC, port.MAC)
	}
	if _, err := s.RemovePort("br9", "eth9", 30*time.Second); !virterr.Is(err, virterr.OperationInvalid) || !strings.Contains(err.Error(), "not confirmed yet") {
		t.Errorf("a second change: %v", err)
	}
	ok(t, s.Confirm("eth9"))
	if err := s.Confirm("eth9"); !virterr.Is(err, virterr.OperationInvalid) {
		t.Errorf("confirmed twice: %v", err)
	}
	list, err := s.Bridges()
	ok(t, err)
	if len(list) != 1 || list[0].Name != "br9" || !slices.Equal(list[0].Ports, []string{"eth9"}) || !slices.Contains(list[0].Addresses, "192.0.2.1/24") || !list[0].Up {
		t.Errorf("bridges %+v", list)
	}
	for _, c := range []struct {
		what string
		err  error
		says string
	}{
		{"delete", s.Delete("br9"), "bridge 'br9' has ports: eth9; remove them first"},
		{"no bridge", s.Delete("br8"), "no bridge with the name 'br8'"},
		{"again", second(s.AddPort("br9", "eth9", time.Minute)), "'eth9' is a port of bridge 'br9' already"},
		{"loopback", second(s.AddPort("br9", "lo", time.Minute)), "'lo' cannot be a port of a bridge"},
		{"no link", second(s.AddPort("br9", "eth8", time.Minute)), "No such device"},
		{"no port", second(s.RemovePort("br9", "lo", time.Minute)), "'lo' is no port of bridge 'br9'"},
		{"no time", second(s.AddPort("br9", "lo", 0)), "waits from 1s to 10m0s"},
		{"long name", s.Create(bridge.BridgeConfig{Name: "abcdefghijklmnop"}), "1 to 15 characters"},
		{"taken", s.Create(bridge.BridgeConfig{Name: "br9"}), "an interface of that name exists"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	pending, err = s.RemovePort("br9", "eth9", 30*time.Second)
	ok(t, err)
	ok(t, s.Confirm("eth9"))
	if got := state(t); got != before || !pending {
		t.Errorf("after the way back (pending %v)\n%s\nwant\n%s", pending, got, before)
	}
	ok(t, s.Delete("br9"))
	if files, _ := filepath.Glob(dir + "/*"); len(files) != 0 {
		t.Errorf("records left: %v", files)
	}
}

func second(_ bool, err error) error { return err }

// TestTakenBack: without a confirmation, when virtd ends, when it was killed, and when the gateway is lost, everything is as it
// was.
func TestTakenBack(t *testing.T) {
	uplink(t)
	before := state(t)
	dir := t.TempDir()
	s := newChanger(t, dir)
	ok(t, s.Create(bridge.BridgeConfig{Name: "br9"}))
	t.Cleanup(func() { s.cfg.Links.Delete("br9") })
	add := func(wait time.Duration) {
		t.Helper()
		if _, err := s.AddPort("br9", "eth9", wait); err != nil {
			t.Fatal(err)
		}
	}
	add(time.Second)
	for end := time.Now().Add(10 * time.Second); state(t) != before && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if got := state(t); got != before {
		t.Fatalf("not confirmed:\n%s\nwant\n%s", got, before)
	}
	if err := s.Confirm("eth9"); err == nil {
		t.Error("a change that was taken back can be confirmed")
	}
	add(time.Minute)
	s.Close()
	if got := state(t); got != before {
		t.Fatalf("virtd ended:\n%s", got)
	}
	s = newChanger(t, dir)
	add(time.Minute)
	killed := s
	s = newChanger(t, dir) // as the next virtd, while the record of the killed one is there
	if got := state(t); got != before {
		t.Fatalf("virtd was killed:\n%s", got)
	}
	killed.settle("eth9")

	c, err := nftables.New()
	ok(t, err)
	table := c.AddTable(&nftables.Table{Name: "deaf", Family: nftables.TableFamilyBridge})
	chain := c.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	ok(t, c.Flush())
	t.Cleanup(func() { c.DelTable(table); c.Flush() })
	if _, err := s.AddPort("br9", "eth9", time.Minute); !virterr.Is(err, virterr.OperationFailed) || !strings.Contains(err.Error(), "the gateway 192.0.2.254 does not answer over 'br9' any more") {
		t.Errorf("a gateway that is lost: %v", err)
	}
	if got := state(t); got != before {
		t.Errorf("the gateway was lost:\n%s\nwant\n%s", got, before)
	}
	if files, _ := filepath.Glob(dir + "/*"); len(files) != 0 {
		t.Errorf("records left: %v", files)
	}
}

// TestPlainPort: a link without addresses is a port at once.
func TestPlainPort(t *testing.T) {
	uplink(t)
	l, err := netlink.LinkByName("eth9")
	ok(t, err)
	for _, a := range []string{"192.0.2.2/24", "192.0.2.1/24", "2001:db8::1/64"} {
		ok(t, netlink.AddrDel(l, address4(a)))
	}
	s := newChanger(t, t.TempDir())
	ok(t, s.Create(bridge.BridgeConfig{Name: "br9", STP: true}))
	t.Cleanup(func() { s.cfg.Links.Delete("br9") })
	if !bridge.STP("br9") || bridge.STP("eth9") {
		t.Error("which bridge speaks STP is told wrongly")
	}
	if pending, err := s.AddPort("br9", "eth9", time.Minute); err != nil || pending {
		t.Errorf("pending %v, %v", pending, err)
	}
	if pending, err := s.RemovePort("br9", "eth9", time.Minute); err != nil || pending {
		t.Errorf("pending %v, %v", pending, err)
	}
	ok(t, s.Create(bridge.BridgeConfig{Name: "virbr0"}))
	t.Cleanup(func() { s.cfg.Links.Delete("virbr0") })
	if err := s.Delete("virbr0"); err == nil || !strings.Contains(err.Error(), "belongs to network 'default'") {
		t.Errorf("a network's bridge: %v", err)
	}
	if _, err := s.AddPort("virbr0", "eth9", time.Minute); err == nil || !strings.Contains(err.Error(), "belongs to network 'default'") {
		t.Errorf("a network's bridge: %v", err)
	}
}
