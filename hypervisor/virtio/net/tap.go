package net

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// tap is one queue of a tap or macvtap, or a stream socket in place of one.
type tap struct {
	fd     int
	multi  bool // the queue can be detached
	ops    tapOps
	stream *stream // of a socket in place of a tap
	header uint64  // bytes before each frame: headerSize or hashHeaderSize
}

// tapOps are the requests to the kernel about a tap queue; tests have their own.
type tapOps interface {
	setOffloads(fd int, tun uint) error
	steer(fd int, to bool) error
	// setHeader tells how many bytes stand before each frame.
	setHeader(fd, size int) error
	// setProgram makes a BPF program choose the queues of all packets; -1 lets the kernel choose.
	setProgram(fd, program int) error
}

// offloadBits pairs what a driver can take with what a tap can be told (linux/if_tun.h).
var offloadBits = []struct {
	feature uint64
	tun     uint
}{
	{featureGuestCsum, unix.TUN_F_CSUM},
	{featureGuestTSO4, unix.TUN_F_TSO4},
	{featureGuestTSO6, unix.TUN_F_TSO6},
	{featureGuestECN, unix.TUN_F_TSO_ECN},
	{featureGuestUSO4, unix.TUN_F_USO4},
	{featureGuestUSO6, unix.TUN_F_USO6},
}

func guestFeatures(tun uint) (f uint64) {
	for _, b := range offloadBits {
		if tun&b.tun != 0 {
			f |= b.feature
		}
	}
	return f
}

// tunOffloads is what a tap must be told for the given driver features or offloads. The kernel wants USO for both
// versions of IP or none.
func tunOffloads(f uint64) (tun uint) {
	f = consistent(f)
	const uso = unix.TUN_F_USO4 | unix.TUN_F_USO6
	for _, b := range offloadBits {
		if f&b.feature != 0 {
			tun |= b.tun
		}
	}
	if tun&uso != uso {
		tun &^= uso
	}
	return tun
}

// probeOffloads learns which offloads the tap takes and leaves all off. USO came with Linux 6.2.
func (t *tap) probeOffloads() uint {
	const base = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	for _, set := range []uint{base | unix.TUN_F_USO4 | unix.TUN_F_USO6, base, unix.TUN_F_CSUM} {
		if t.setOffloads(set) == nil {
			if t.setOffloads(0) != nil {
				return 0
			}
			return set
		}
	}
	return 0
}

func (t *tap) setOffloads(set uint) error {
	if err := t.ops.setOffloads(t.fd, set); err != nil {
		return fmt.Errorf("set tap offloads %#x: %w", set, err)
	}
	return nil
}

// setHeader tells the tap how many bytes stand before each frame. Of a header, a tap reads and writes struct virtio_net_hdr and
// leaves the rest alone.
func (t *tap) setHeader(size uint64) error {
	if t.header == size {
		return nil
	}
	// A queue that is detached knows no tap to ask, and needs not: the size is the tap's. A macvtap's queues have one each.
	if err := t.ops.setHeader(t.fd, int(size)); err != nil && err != unix.EBADFD {
		return fmt.Errorf("set a header of %d bytes: %w", size, err)
	}
	t.header = size
	return nil
}

// attach lets the kernel steer packets to this queue, or no more. A tap of one queue cannot be detached.
func (t *tap) attach(on bool) error {
	if !t.multi {
		return nil
	}
	err := t.ops.steer(t.fd, on)
	if err == unix.EINVAL { // it is in the wanted state already
		err = nil
	}
	return err
}

// noTap is what a stream socket has of a tap.
type noTap struct{}

func (noTap) setOffloads(_ int, tun uint) error {
	if tun != 0 {
		return unix.EINVAL
	}
	return nil
}

func (noTap) steer(int, bool) error     { return nil }
func (noTap) setProgram(int, int) error { return unix.EINVAL }
func (noTap) setHeader(int, int) error  { return nil }

// kernelTap is the real thing.
type kernelTap struct{}

func (kernelTap) setOffloads(fd int, tun uint) error {
	return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(tun))
}

func (kernelTap) setProgram(fd, program int) error {
	return unix.IoctlSetPointerInt(fd, unix.TUNSETSTEERINGEBPF, program)
}

func (kernelTap) setHeader(fd, size int) error {
	return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, size)
}

func (kernelTap) steer(fd int, to bool) error {
	ifr, err := unix.NewIfreq("") // the name is not looked at
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_DETACH_QUEUE)
	if to {
		ifr.SetUint16(unix.IFF_ATTACH_QUEUE)
	}
	return unix.IoctlIfreq(fd, unix.TUNSETQUEUE, ifr)
}

// open prepares the descriptor of a queue.
func (t *tap) open() error {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(t.fd, unix.TUNGETIFF, ifr); err != nil {
		return fmt.Errorf("descriptor %d is no tap queue: %w", t.fd, err)
	}
	if ifr.Uint16()&unix.IFF_VNET_HDR == 0 {
		return fmt.Errorf("tap %s has no vnet header (IFF_VNET_HDR)", ifr.Name())
	}
	if err := unix.IoctlSetPointerInt(t.fd, unix.TUNSETVNETHDRSZ, headerSize); err != nil {
		return fmt.Errorf("set vnet header size of tap %s: %w", ifr.Name(), err)
	}
	return nil
}
