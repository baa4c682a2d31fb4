package bridge

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// ethtoolCoalesce is struct ethtool_coalesce (linux/ethtool.h) as far as its fields are named here; the others stay as the
// kernel tells them.
type ethtoolCoalesce struct {
	cmd         uint32
	rxUsecs     uint32
	rxMaxFrames uint32
	rest        [20]uint32
}

// ethtoolRequest is struct ifreq with a pointer, as SIOCETHTOOL takes it.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// SetCoalesce implements Links. Linux gathers 64 frames at most, whatever it is told beyond that.
func (h *Host) SetCoalesce(name string, frames uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return virterr.New(virterr.SystemError, "Cannot set coalesce info on '%s': open a socket: %w", name, errno(err))
	}
	defer unix.Close(fd)
	c := ethtoolCoalesce{cmd: unix.ETHTOOL_GCOALESCE}
	if err = ethtool(fd, name, &c); err == nil {
		c.cmd, c.rxMaxFrames = unix.ETHTOOL_SCOALESCE, frames
		err = ethtool(fd, name, &c)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Cannot set coalesce info on '%s': %w", name, errno(err))
	}
	return nil
}

// Coalesce returns what SetCoalesce set.
func (h *Host) Coalesce(name string) (frames uint32, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, virterr.New(virterr.SystemError, "Cannot get coalesce info on '%s': open a socket: %w", name, errno(err))
	}
	defer unix.Close(fd)
	c := ethtoolCoalesce{cmd: unix.ETHTOOL_GCOALESCE}
	if err := ethtool(fd, name, &c); err != nil {
		return 0, virterr.New(virterr.SystemError, "Cannot get coalesce info on '%s': %w", name, errno(err))
	}
	return c.rxMaxFrames, nil
}

func ethtool(fd int, name string, c *ethtoolCoalesce) error {
	r := ethtoolRequest{data: unsafe.Pointer(c)}
	copy(r.name[:unix.IFNAMSIZ-1], name)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(c)
	if e != 0 {
		return e
	}
	return nil
}
