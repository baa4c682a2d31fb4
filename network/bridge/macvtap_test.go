package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// inMacvtapNamespace is inNamespace with a sysfs of that namespace and a pair of links, eth0 and eth1, that are up.
func inMacvtapNamespace(t *testing.T) *Host {
	t.Helper()
	h := inNamespace(t)
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatalf("new mount namespace: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth1"}); err != nil {
		t.Fatalf("veth: %v", err)
	}
	for _, name := range []string{"eth0", "eth1"} {
		if err := h.SetUp(name, true); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// openMacvtap skips where the kernel has no macvtap; the lab's has.
func openMacvtap(t *testing.T, h *Host, c MacvtapConfig) *Tap {
	t.Helper()
	tap, err := h.OpenMacvtap(c)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("needs macvtap in the kernel: %v", err)
	}
	if err != nil {
		t.Fatalf("OpenMacvtap(%+v): %v", c, err)
	}
	t.Cleanup(tap.Close)
	return tap
}

// What goes into a queue of the macvtap comes out of the other end of the link, and back to one of its queues.
func TestMacvtapPassesPackets(t *testing.T) {
	h := inMacvtapNamespace(t)
	var noted []string
	tap := openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapBridge, MAC: guestMAC, Queues: 3, MTU: 1400,
		Note: func(name string, index int) error { noted = append(noted, name); return nil }})
	l, err := h.Link(tap.Name)
	if err != nil || l.Kind != "macvtap" || l.MAC.String() != guestMAC.String() || !l.Up || l.MTU != 1400 || len(tap.Files) != 3 || tap.Name != "macvtap0" {
		t.Errorf("macvtap %+v with %d queues, %v", l, len(tap.Files), err)
	}
	if len(noted) != 2 || noted[0] != tap.Name || noted[1] != tap.Name {
		t.Errorf("noted %q", noted)
	}
	if tap.Offloads&offloadBase != offloadBase {
		t.Errorf("offloads %#x lack the base set", tap.Offloads)
	}
	if off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + tap.Name + "/disable_ipv6"); err == nil && string(off) != "1\n" {
		t.Errorf("the host speaks IPv6 under the guest's address")
	}
	other, err := netlink.LinkByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	proto := uint16(0x88b5) // for local experiments (IEEE 802)
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(proto<<8|proto>>8))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(wire)
	at := &unix.SockaddrLinklayer{Ifindex: other.Attrs().Index, Protocol: proto<<8 | proto>>8}
	if err := unix.Bind(wire, at); err != nil {
		t.Fatal(err)
	}
	frame := append(append(append([]byte{}, other.Attrs().HardwareAddr...), guestMAC...), 0x88, 0xb5)
	frame = append(frame, bytes.Repeat([]byte("from guest "), 9)...)
	if _, err := tap.Files[1].Write(append(make([]byte, VnetHeaderSize), frame...)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2000)
	if n := within(t, wire, got); !bytes.Equal(got[:n], frame) {
		t.Errorf("the wire had %q", got[:n])
	}
	for _, to := range []net.HardwareAddr{guestMAC, {0x33, 0x33, 0xff, 1, 2, 3}} { // an IPv6 neighbour's question is a multicast
		frame := append(append(append([]byte{}, to...), other.Attrs().HardwareAddr...), 0x88, 0xb5)
		frame = append(frame, bytes.Repeat([]byte("to guest "), 9)...)
		if err := unix.Sendto(wire, frame, 0, at); err != nil {
			t.Fatal(err)
		}
		if got := fromAny(t, tap); !bytes.Equal(got, frame) {
			t.Errorf("to %s: the guest had %q", to, got)
		}
	}
	s, err := h.GuestStats(tap.Name)
	if err != nil || s.TxPackets != 1 || s.RxPackets < 2 {
		t.Errorf("statistics as the guest sees them: %+v, %v", s, err)
	}
}

// within reads a packet that arrives soon.
func within(t *testing.T, fd int, p []byte) int {
	t.Helper()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	n, err := unix.Read(fd, p)
	if err != nil {
		t.Fatalf("no packet: %v", err)
	}
	return n
}

// fromAny reads the next frame of the test from whichever queue has it.
func fromAny(t *testing.T, tap *Tap) []byte {
	t.Helper()
	var fds []unix.PollFd
	for _, f := range tap.Files {
		fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if _, err := unix.Poll(fds, 1000); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		for i := range fds {
			if fds[i].Revents&unix.POLLIN != 0 {
				p := make([]byte, 2000)
				n, err := unix.Read(int(fds[i].Fd), p)
				if err != nil {
					t.Fatal(err)
				}
				if frame := p[VnetHeaderSize:n]; frame[12] == 0x88 && frame[13] == 0xb5 { // the rest is IPv6 of the links
					return frame
				}
			}
		}
	}
	t.Fatal("no queue has a packet")
	return nil
}

// In mode passthrough the link below has the guest's address too, as cards that are not promiscuous need, and its own afterwards.
func TestMacvtapPassthroughAddress(t *testing.T) {
	h := inMacvtapNamespace(t)
	address := func(name string) net.HardwareAddr {
		t.Helper()
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().HardwareAddr
	}
	before := address("eth0")
	tap := openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapPassthrough, MAC: guestMAC})
	if a, b := address(tap.Name), address("eth0"); !bytes.Equal(a, guestMAC) || !bytes.Equal(b, guestMAC) {
		t.Errorf("the macvtap has %v, the link below %v, want %v", a, b, guestMAC)
	}
	if err := h.DeleteMacvtap(tap.Name, 0, guestMAC); err != nil {
		t.Fatal(err)
	}
	if now := address("eth0"); !bytes.Equal(now, before) {
		t.Errorf("the link is left with %v, had %v", now, before)
	}
}

func TestMacvtapRefusals(t *testing.T) {
	h := inMacvtapNamespace(t)
	first := openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapPassthrough, MAC: guestMAC})
	if _, err := netlink.LinkByName("br0"); err != nil {
		t.Fatal(err)
	}
	if err := h.Attach("br0", "eth1"); err != nil {
		t.Fatal(err)
	}
	links, err := h.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  MacvtapConfig
		code virterr.Code
		want string
	}{
		{MacvtapConfig{Parent: "eth9"}, virterr.SystemError, "eth9: No such device"},
		{MacvtapConfig{Parent: "eth0", Mode: "hub"}, virterr.ConfigUnsupported, "'hub' is none of vepa, bridge, private, passthrough"},
		{MacvtapConfig{Parent: "eth0", Mode: MacvtapPassthrough}, virterr.SystemError, "eth0 is in use by " + first.Name + "; mode passthrough has a device for itself"},
		{MacvtapConfig{Parent: "eth0", Mode: MacvtapBridge}, virterr.SystemError, "eth0 is in use by " + first.Name},
		{MacvtapConfig{Parent: "eth1", Mode: MacvtapBridge}, virterr.SystemError, "eth1 is a port of br0"},
		{MacvtapConfig{Parent: "eth0", Queues: 17}, virterr.ConfigUnsupported, "17 queues"},
		{MacvtapConfig{Parent: "lo", Mode: MacvtapBridge}, virterr.SystemError, "error creating macvtap interface"},
	} {
		tap, err := h.OpenMacvtap(c.cfg)
		if !virterr.Is(err, c.code) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
		if err == nil {
			tap.Close()
		}
	}
	if _, err := h.OpenMacvtap(MacvtapConfig{Parent: "eth0", Note: func(string, int) error { return errors.New("no record") }}); err == nil {
		t.Error("a macvtap that is on no record was made")
	}
	if now, err := h.List(); err != nil || len(now) != len(links) {
		t.Errorf("links left behind: %+v, %v", now, err)
	}
}

// A macvtap is removed by whoever made it, and only that one.
func TestMacvtapDelete(t *testing.T) {
	h := inMacvtapNamespace(t)
	tap := openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapBridge, MAC: guestMAC})
	for _, c := range []struct {
		name  string
		index int
		mac   net.HardwareAddr
	}{{tap.Name, tap.Index + 1, guestMAC}, {tap.Name, 0, net.HardwareAddr{2, 0, 0, 0, 0, 1}}, {"eth1", 0, guestMAC}, {"gone", 1, nil}} {
		if err := h.DeleteMacvtap(c.name, c.index, c.mac); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := h.Link(tap.Name); err != nil {
		t.Fatalf("somebody else's macvtap was removed: %v", err)
	}
	if err := h.DeleteMacvtap(tap.Name, 0, guestMAC); err != nil {
		t.Error(err)
	}
	if _, err := h.Link(tap.Name); !errors.Is(err, unix.ENODEV) {
		t.Errorf("by its address: %v", err)
	}
	tap = openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapVEPA, MAC: guestMAC})
	if err := h.DeleteMacvtap(tap.Name, tap.Index, nil); err != nil {
		t.Error(err)
	}
	if _, err := h.Link(tap.Name); !errors.Is(err, unix.ENODEV) {
		t.Errorf("by its index: %v", err)
	}
}

// A trusted guest's filter is what its macvtap receives, again and again.
func TestApplyRxFilter(t *testing.T) {
	h := inMacvtapNamespace(t)
	tap := openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapBridge, MAC: guestMAC})
	a, b := net.HardwareAddr{1, 0, 0x5e, 0, 0, 5}, net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 1}
	var many []net.HardwareAddr
	for i := range maxMulticast + 1 {
		many = append(many, net.HardwareAddr{1, 0, 0x5e, 1, 0, byte(i)})
	}
	other := net.HardwareAddr{0x52, 0x54, 0, 9, 9, 9}
	for i, c := range []struct {
		f          RxFilter
		has, hasNo []net.HardwareAddr
		all        bool
	}{
		{RxFilter{MAC: guestMAC, Multicast: []net.HardwareAddr{a, b}}, []net.HardwareAddr{a, b}, nil, false},
		{RxFilter{MAC: other, Multicast: []net.HardwareAddr{b}}, []net.HardwareAddr{b}, []net.HardwareAddr{a}, false},
		{RxFilter{MAC: other, AllMulticast: true}, nil, []net.HardwareAddr{a, b}, true},
		{RxFilter{MAC: guestMAC, Multicast: many}, nil, many[:1], true},
		{RxFilter{MAC: guestMAC, Promiscuous: true}, nil, nil, true},
		{RxFilter{MAC: guestMAC}, nil, []net.HardwareAddr{a, b}, false},
	} {
		if err := h.ApplyRxFilter(tap.Name, c.f); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		l, err := netlink.LinkByName(tap.Name)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attrs().HardwareAddr.String() != c.f.MAC.String() || l.Attrs().Allmulti != 0 != c.all || l.Attrs().Promisc != 0 != c.f.Promiscuous {
			t.Errorf("%d: address %s, allmulti %d, promisc %d", i, l.Attrs().HardwareAddr, l.Attrs().Allmulti, l.Attrs().Promisc)
		}
		groups := map[string]bool{}
		table, err := netlink.NeighList(tap.Index, unix.AF_BRIDGE)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range table {
			groups[n.HardwareAddr.String()] = true
		}
		for _, mac := range c.has {
			if !groups[mac.String()] {
				t.Errorf("%d: group %s is not received: %v", i, mac, groups)
			}
		}
		for _, mac := range c.hasNo {
			if groups[mac.String()] {
				t.Errorf("%d: group %s is still received", i, mac)
			}
		}
	}
	if err := h.ApplyRxFilter("eth1", RxFilter{}); !virterr.Is(err, virterr.InvalidArg) {
		t.Errorf("the filter of a network card: %v", err)
	}
	if err := h.ApplyRxFilter("gone", RxFilter{}); !errors.Is(err, unix.ENODEV) {
		t.Errorf("the filter of nothing: %v", err)
	}
}

// A macvtap goes with the device below it, and whoever watches is told.
func TestWatchRemoved(t *testing.T) {
	h := inMacvtapNamespace(t)
	tap := openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapBridge, MAC: guestMAC})
	ctx, cancel := context.WithCancel(t.Context())
	gone, ended, ready := make(chan string, 16), make(chan error, 1), make(chan struct{})
	ns, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ns)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is in the test's namespace
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		close(ready)
		ended <- h.WatchRemoved(ctx, func(name string, index int) { gone <- fmt.Sprint(name, " ", index) })
	}()
	<-ready
	time.Sleep(100 * time.Millisecond) // the socket is open
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(eth0); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 3 { // both ends of the pair too
		select {
		case g := <-gone:
			seen[g] = true
		case <-time.After(30 * time.Second):
		}
	}
	if !seen[fmt.Sprint(tap.Name, " ", tap.Index)] {
		t.Errorf("not told of %s %d: %v", tap.Name, tap.Index, seen)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
