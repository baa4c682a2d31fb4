package taptest

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Tap is a tap that is up.
type Tap struct {
	Name string
	FDs  []int // one for each queue, with vnet headers; not closed by the test
	raw  int
	t    testing.TB
}

// HeaderSize is what precedes each packet on FDs (virtio 1.2, 5.1.6).
const HeaderSize = 12

// Addresses of test frames: the peer is on the host's side.
var (
	Guest = [6]byte{0x52, 0x54, 0, 0, 0, 1}
	Peer  = [6]byte{0x52, 0x54, 0, 0, 0, 2}
)

// etherType of test frames: for local experiments, so that no stack answers them (IEEE 802, 0x88b5).
const etherType = 0x88b5

// New makes a tap in a new network namespace, which ends with the test, because its thread does. It skips the test where
// the host does not allow that.
func New(t testing.TB, queues int) *Tap {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs the right to make a network namespace (CAP_SYS_ADMIN)")
		}
		t.Fatalf("new network namespace: %v", err)
	}
	tap := &Tap{Name: "tap0", t: t}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range queues {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Skipf("needs /dev/net/tun: %v", err)
		}
		tap.FDs = append(tap.FDs, fd)
		tap.ioctl(fd, unix.TUNSETIFF, flags)
	}
	tap.openRaw()
	return tap
}

func (tap *Tap) ioctl(fd int, req uint, v uint16) {
	tap.t.Helper()
	ifr, err := unix.NewIfreq(tap.Name)
	if err == nil {
		ifr.SetUint16(v)
		err = unix.IoctlIfreq(fd, req, ifr)
	}
	if err != nil {
		tap.t.Fatalf("request %#x of %s: %v", req, tap.Name, err)
	}
}

// openRaw opens the packet socket and sets the tap up.
func (tap *Tap) openRaw() {
	tap.t.Helper()
	proto := int(etherType>>8 | etherType<<8&0xff00)
	raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		tap.t.Fatalf("packet socket: %v", err)
	}
	tap.raw = raw
	tap.t.Cleanup(func() { unix.Close(raw) })
	tap.ioctl(raw, unix.SIOCSIFFLAGS, unix.IFF_UP|unix.IFF_PROMISC)
	ifr, err := unix.NewIfreq(tap.Name)
	if err == nil {
		err = unix.IoctlIfreq(raw, unix.SIOCGIFINDEX, ifr)
	}
	if err == nil {
		err = unix.Bind(raw, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: int(ifr.Uint32())})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(raw, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	}
	if err != nil {
		tap.t.Fatalf("bind packet socket: %v", err)
	}
}

// Frame builds a frame of n bytes with recognizable contents.
func Frame(to, from [6]byte, n int) []byte {
	f := append(append([]byte{}, to[:]...), from[:]...)
	f = append(f, etherType>>8, etherType&0xff)
	for len(f) < n {
		f = append(f, byte(len(f)*7+n))
	}
	return f
}

// Send passes a frame to the guest's side of the tap.
func (tap *Tap) Send(frame []byte) {
	tap.t.Helper()
	if _, err := unix.Write(tap.raw, frame); err != nil {
		tap.t.Fatalf("send to %s: %v", tap.Name, err)
	}
}

// Receive waits for a frame that came out of the guest's side.
func (tap *Tap) Receive() []byte {
	tap.t.Helper()
	p := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(tap.raw, p, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			tap.t.Fatalf("no frame from %s: %v", tap.Name, err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue // our own
		}
		return p[:n]
	}
}

// SetDown takes the tap down.
func (tap *Tap) SetDown() { tap.ioctl(tap.raw, unix.SIOCSIFFLAGS, 0) }
