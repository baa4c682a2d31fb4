package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/network/usernet"
)

// inRoutedNamespace moves the test to a network namespace with a default route, which passt wants to see. It ends with the
// test, as the goroutine keeps its thread.
func inRoutedNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs the right to make a network namespace (root)")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs the right to make a network namespace: %v", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far0"}))
	for _, name := range []string{"lo", "far0"} {
		up(t, name, "")
	}
	up(t, "up0", "192.0.2.1/24")
	ok(t, netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Gw: net.IPv4(192, 0, 2, 9)}))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func up(t *testing.T, name, address string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	ok(t, err)
	ok(t, netlink.LinkSetUp(l))
	if address == "" {
		return
	}
	a, err := netlink.ParseAddr(address)
	ok(t, err)
	ok(t, netlink.AddrAdd(l, a))
}

// machine is a guest: a network namespace whose eth0 is a tap, of which the test is the engine. One thread does what it is told
// there.
type machine struct{ do chan func() }

func newMachine(t *testing.T, mac string, engine net.Conn) *machine {
	t.Helper()
	m := &machine{do: make(chan func())}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the namespace ends with the thread
		ready <- tap(mac, engine)
		for f := range m.do {
			f()
		}
	}()
	ok(t, <-ready)
	t.Cleanup(func() { close(m.do) })
	return m
}

// tap makes the namespace of the calling thread and moves frames between its eth0 and the socket.
func tap(mac string, engine net.Conn) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	hw, err := net.ParseMAC(mac)
	if err == nil {
		err = errors.Join(netlink.LinkSetHardwareAddr(l, hw), netlink.LinkSetUp(l), unix.SetNonblock(fd, true))
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "tap")
	go func() { // ends with the socket, or the tap
		defer f.Close()
		p := make([]byte, prefix+maxFrame)
		for {
			n, err := f.Read(p[prefix:])
			if err != nil {
				return
			}
			binary.BigEndian.PutUint32(p, uint32(n))
			if _, err := engine.Write(p[:prefix+n]); err != nil {
				return
			}
		}
	}()
	go func() {
		defer f.Close()
		p := make([]byte, prefix+maxFrame)
		for {
			if _, err := io.ReadFull(engine, p[:prefix]); err != nil {
				return
			}
			n := binary.BigEndian.Uint32(p)
			if _, err := io.ReadFull(engine, p[prefix:prefix+n]); err != nil {
				return
			}
			f.Write(p[prefix : prefix+n])
		}
	}()
	return nil
}

func (m *machine) run(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	m.do <- func() { done <- f() }
	ok(t, <-done)
}

// lease asks for an address and uses it.
func (m *machine) lease(t *testing.T) (ack *dhcpv4.DHCPv4) {
	t.Helper()
	m.run(t, func() error {
		c, err := nclient4.New("eth0", nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(5))
		if err != nil {
			return err
		}
		defer c.Close()
		lease, err := c.Request(context.Background())
		if err != nil {
			return err
		}
		ack = lease.ACK
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: &net.IPNet{IP: ack.YourIPAddr, Mask: ack.SubnetMask()}}); err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{Gw: ack.Router()[0], Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	})
	return ack
}

// count takes what comes and says how much that was, once it is as much as expected: who sends need not close first.
func count(c net.Conn, expected int) {
	defer c.Close()
	p, n := make([]byte, 64<<10), 0
	for n < expected {
		k, err := c.Read(p)
		if n += k; err != nil {
			break
		}
	}
	fmt.Fprintln(c, n)
}

// Both programs: an address, a connection out with bytes of which each arrives, and a port of the host that leads in.
func TestTraffic(t *testing.T) {
	passt, _ := exec.LookPath("passt")
	for _, backend := range []usernet.Backend{usernet.Own, usernet.Passt} {
		t.Run(string(backend), func(t *testing.T) {
			if backend == usernet.Passt && passt == "" {
				t.Skip("needs passt (package passt)")
			}
			inRoutedNamespace(t)
			host, guest := "10.0.2.2", "10.0.2.15"
			path := ""
			if backend == usernet.Passt {
				host, guest, path = "192.0.2.9", "192.0.2.1", passt
			}
			traffic(t, path, host, guest)
		})
	}
}

func traffic(t *testing.T, passt, host, guest string) {
	helper, err := os.Executable()
	ok(t, err)
	s := usernet.NewSupervisor(usernet.Options{Helper: helper, Passt: func() string { return passt }, Logs: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.Close)
	port := freePort(t)
	c := config(t, domain.PortRange{Start: port, End: port, To: 22})
	c.Network.Forwards = append(c.Network.Forwards, domain.PortForward{Protocol: "udp", Address: netip.MustParseAddr("127.0.0.1"),
		Ranges: []domain.PortRange{{Start: port, End: port, To: 5353}}})
	f, _, err := s.Start(c)
	conn := engine(t, f, err)
	t.Cleanup(func() { ok(t, s.StopAll(c.Dir)) })
	m := newMachine(t, c.MAC, conn)
	if ack := m.lease(t); ack.YourIPAddr.String() != guest {
		t.Errorf("lease:\n%s", ack.Summary())
	}
	const size = 3 << 20
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			count(c, size)
		}
	}()
	m.run(t, func() error {
		c, err := net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", host, l.Addr().(*net.TCPAddr).Port), 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(60 * time.Second))
		if _, err := c.Write(make([]byte, size)); err != nil {
			return err
		}
		got, err := io.ReadAll(c)
		if string(got) != fmt.Sprintln(size) {
			return fmt.Errorf("of %d bytes the host had %q, %v", size, got, err)
		}
		return nil
	})
	m.serveHello(t)
	for range 3 {
		c, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
		ok(t, err)
		c.SetDeadline(time.Now().Add(20 * time.Second))
		// passt of Debian 12 completes the guest's handshake only when the client says something.
		_, err = io.WriteString(c, "x")
		ok(t, err)
		if got, err := io.ReadAll(c); string(got) != "hello" {
			t.Errorf("by the host's port: %q, %v", got, err)
		}
		c.Close()
	}
	u, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	ok(t, err)
	defer u.Close()
	u.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = u.Write([]byte("who"))
	ok(t, err)
	got := make([]byte, 100)
	if n, err := u.Read(got); string(got[:n]) != "hello" {
		t.Errorf("by the host's UDP port: %q, %v", got[:n], err)
	}
}

// serveHello answers on the guest's ports 22 and 5353.
func (m *machine) serveHello(t *testing.T) {
	t.Helper()
	m.run(t, func() error {
		l, err := net.Listen("tcp4", ":22")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 1))
				io.WriteString(c, "hello")
				c.Close()
			}
		}()
		u, err := net.ListenPacket("udp4", ":5353")
		if err != nil {
			return err
		}
		t.Cleanup(func() { u.Close() })
		go func() {
			p := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(p)
				if err != nil {
					return
				}
				u.WriteTo([]byte("hello"), from)
			}
		}()
		return nil
	})
}
