package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"virtd/domain"
	"virtd/network/usernet"
)

// TestMain is also virtd-usernet, when the supervisor starts this program as that.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "guest" {
		if err := Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func supervisor(t *testing.T) *usernet.Supervisor {
	t.Helper()
	helper, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := usernet.NewSupervisor(usernet.Options{Helper: helper, Passt: func() string { return "" }, Logs: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.Close)
	return s
}

// freePort is a port of this host that nobody has at the moment.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func config(t *testing.T, ports ...domain.PortRange) usernet.Config {
	c := usernet.Config{Dir: t.TempDir(), Domain: "guest", Alias: "net0", MAC: "52:54:00:12:34:56"}
	if len(ports) > 0 {
		c.Network.Forwards = []domain.PortForward{{Protocol: "tcp", Address: netip.MustParseAddr("127.0.0.1"), Ranges: ports}}
	}
	return c
}

// engine is what the engine has: the near end of the socket, as a connection.
func engine(t *testing.T, f *os.File, err error) net.Conn {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// discover asks for an address, as a guest's first packet does, and returns the offer.
func discover(t *testing.T, conn net.Conn, mac string) *dhcpv4.DHCPv4 {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	ask, err := dhcpv4.NewDiscovery(hw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(framed(ethernet(hw, ask.ToBytes()))); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, prefix)
	for {
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatalf("no offer: %v", err)
		}
		p := make([]byte, int(head[2])<<8|int(head[3]))
		if _, err := io.ReadFull(conn, p); err != nil {
			t.Fatal(err)
		}
		if len(p) < 42 || p[12] != 8 || p[13] != 0 || p[23] != 17 { // not UDP in IPv4
			continue
		}
		if offer, err := dhcpv4.FromBytes(p[42:]); err == nil && offer.TransactionID == ask.TransactionID {
			return offer
		}
	}
}

// ethernet puts a DHCP packet of a client into UDP, IPv4 and Ethernet. IPv4 does without the UDP checksum.
func ethernet(hw net.HardwareAddr, payload []byte) []byte {
	p := append([]byte{255, 255, 255, 255, 255, 255}, hw...)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255}
	n := 28 + len(payload)
	ip[2], ip[3] = byte(n>>8), byte(n)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	sum = sum>>16 + sum&0xffff
	ip[10], ip[11] = ^byte(sum>>8), ^byte(sum)
	n -= 20
	p = append(append(p, 8, 0), ip...)
	return append(append(p, 0, 68, 0, 67, byte(n>>8), byte(n), 0, 0), payload...)
}

// The process gives the guest its address, router and resolver, and ends with the engine's socket.
func TestOwnProcess(t *testing.T) {
	s, c := supervisor(t), config(t)
	f, info, err := s.Start(c)
	conn := engine(t, f, err)
	if info.Backend != usernet.Own || len(info.Addresses) != 1 || info.Addresses[0].String() != "10.0.2.15/24" {
		t.Errorf("info %+v", info)
	}
	offer := discover(t, conn, c.MAC)
	if offer.YourIPAddr.String() != "10.0.2.15" || fmt.Sprint(offer.Router()) != "[10.0.2.1]" || fmt.Sprint(offer.DNS()) != "[10.0.2.1]" {
		t.Errorf("offer:\n%s", offer.Summary())
	}
	lost := make(chan usernet.Config, 1)
	s.OnLost(func(c usernet.Config, _ func() (*os.File, error)) error { lost <- c; return nil })
	conn.Close()
	select {
	case got := <-lost:
		if got.Alias != "net0" || got.Dir != c.Dir {
			t.Errorf("lost %+v", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the process does not end with its engine")
	}
	if err := s.StopAll(c.Dir); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(c.Dir + "/*"); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// The process is found by the next virtd; one that is killed is replaced, also when that happened while nobody watched.
func TestOwnProcessIsFoundAndReplaced(t *testing.T) {
	first, c := supervisor(t), config(t)
	f, _, err := first.Start(c)
	conn := engine(t, f, err)
	first.Close()
	discover(t, conn, c.MAC) // it goes on without virtd

	second := supervisor(t)
	fresh := make(chan net.Conn, 1)
	second.OnLost(func(c usernet.Config, start func() (*os.File, error)) error {
		f, err := start()
		if err != nil {
			return err
		}
		conn, err := net.FileConn(f)
		f.Close()
		fresh <- conn
		return err
	})
	second.Adopt(c.Dir)
	for range 2 {
		kill(t, second, c)
		select {
		case conn = <-fresh:
			conn.SetDeadline(time.Now().Add(30 * time.Second))
		case <-time.After(30 * time.Second):
			t.Fatal("no other process came")
		}
		if got := discover(t, conn, c.MAC).YourIPAddr.String(); got != "10.0.2.15" {
			t.Errorf("the other process offers %s", got)
		}
	}
	if err := second.Stop(c.Dir, c.Alias); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("after the stop: %v", err)
	}
	conn.Close()
}

// kill ends the process behind the supervisor's back.
func kill(t *testing.T, s *usernet.Supervisor, c usernet.Config) {
	t.Helper()
	pid, ok := s.PID(c.Dir, c.Alias)
	if !ok {
		t.Fatal("no process on record")
	}
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A port that somebody has, or an address that the host does not have, is said when the domain starts.
func TestOwnProcessRefusals(t *testing.T) {
	s := supervisor(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	c := config(t, domain.PortRange{Start: port, End: port, To: 22})
	if _, _, err := s.Start(c); err == nil || !strings.Contains(err.Error(), "something on the host has the port") {
		t.Errorf("a port in use: %v", err)
	}
	c = config(t, domain.PortRange{Start: freePort(t), End: 0, To: 22})
	c.Network.Forwards[0].Ranges[0].End = c.Network.Forwards[0].Ranges[0].Start
	c.Network.Forwards[0].Address = netip.MustParseAddr("192.0.2.77")
	if _, _, err := s.Start(c); err == nil || !strings.Contains(err.Error(), "the host does not have that address") {
		t.Errorf("an address of somebody else: %v", err)
	}
	if left, _ := filepath.Glob(c.Dir + "/*"); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// The port is there while the guest is, although nobody in it answers: the connection is taken and closed.
func TestOwnProcessListens(t *testing.T) {
	s := supervisor(t)
	port := freePort(t)
	c := config(t, domain.PortRange{Start: port, End: port, To: 22})
	f, _, err := s.Start(c)
	engine(t, f, err)
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(context.Background(), "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := s.Stop(c.Dir, c.Alias); err != nil {
		t.Fatal(err)
	}
	if _, err := d.DialContext(context.Background(), "tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		t.Error("the port stays open without the guest")
	}
}
