package network_test

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/network/bridge"
)

// newTapGuest is a machine behind a tap or macvtap of the host, as a virtual one is: frames go between the tap's first queue
// and the machine's interface, which is another tap.
func newTapGuest(t *testing.T, tap *bridge.Tap, mac string) *guest {
	t.Helper()
	g := newMachine(t)
	hw, err := net.ParseMAC(mac)
	ok(t, err)
	var card *os.File
	g.run(t, func() error {
		// What a machine does at its start, without the seconds that it waits.
		for name, v := range map[string]string{"accept_dad": "0", "router_solicitation_delay": "0", "router_solicitation_interval": "1"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/"+name, []byte(v), 0); err != nil {
				return err
			}
		}
		var err error
		if card, err = openCard("eth0"); err != nil {
			return err
		}
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, hw)
	})
	wire := pollable(t, tap.Files[0])
	ended := make(chan bool, 2)
	for _, way := range [][2]*os.File{{wire, card}, {card, wire}} {
		go func() { pump(way[0], way[1]); ended <- true }()
	}
	t.Cleanup(func() { wire.Close(); card.Close(); <-ended; <-ended })
	g.up(t, "eth0")
	return g
}

// openCard makes a tap in the namespace of the calling thread.
func openCard(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, bridge.VnetHeaderSize)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the guest's interface: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// pollable is another descriptor of a queue, whose Close ends a Read.
func pollable(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	ok(t, err)
	ok(t, unix.SetNonblock(fd, true))
	return os.NewFile(uintptr(fd), f.Name())
}

// pump carries frames until a file is closed. What does not fit is lost, as on a wire.
func pump(from, to *os.File) {
	buf := make([]byte, bridge.VnetHeaderSize+1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		_, _ = to.Write(buf[:n])
	}
}
