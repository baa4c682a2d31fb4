package gateway

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

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
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far0"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", "up0", "far0"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err == nil && name == "up0" {
			err = netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Gw: net.IPv4(192, 0, 2, 9)}); err != nil {
		t.Fatal(err)
	}
}

// passt takes our options: it leases the guest the address that the document names, and passes a connection to the host's port
// on to the guest's.
func TestPasst(t *testing.T) {
	path, err := exec.LookPath("passt")
	if err != nil {
		t.Skip("needs passt (package passt)")
	}
	inRoutedNamespace(t)
	s := usernet.NewSupervisor(usernet.Options{Passt: func() string { return path }, Logs: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.Close)
	port := freePort(t)
	c := config(t, domain.PortRange{Start: port, End: port, To: 22})
	f, info, err := s.Start(c)
	conn := engine(t, f, err)
	if info.Backend != usernet.Passt {
		t.Errorf("info %+v", info)
	}
	offer := discover(t, conn, c.MAC)
	if offer.YourIPAddr.String() != "192.0.2.1" || fmt.Sprint(offer.Router()) != "[192.0.2.9]" {
		t.Errorf("offer:\n%s", offer.Summary())
	}
	client, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	head := make([]byte, prefix)
	for {
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatalf("no packet to port 22 of the guest: %v", err)
		}
		p := make([]byte, binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(conn, p); err != nil {
			t.Fatal(err)
		}
		if len(p) >= 54 && p[23] == 6 && p[36] == 0 && p[37] == 22 && p[47]&2 != 0 { // SYN
			break
		}
	}
	if err := s.StopAll(c.Dir); err != nil {
		t.Error(err)
	}
}
