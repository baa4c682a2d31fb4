package nodedev

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel's ethtool interface (linux/ethtool.h) that say whether one offload is on.
var offloads = []struct {
	command uint32
	name    string
}{
	{0x14, "rx"}, {0x16, "tx"}, {0x18, "sg"}, {0x1e, "tso"}, {0x23, "gso"}, {0x2b, "gro"},
}

// ETHTOOL_GFLAGS, whose bits are further offloads.
const ethtoolFlags = 0x25

var flagOffloads = []struct {
	bit  uint32
	name string
}{
	{1 << 15, "lro"}, {1 << 8, "rxvlan"}, {1 << 7, "txvlan"}, {1 << 27, "ntuple"}, {1 << 28, "rxhash"},
}

// Features returns an interface's offloads that are on, by libvirt's names and in its order. Which do not exist count as off,
// and on any failure there are none: they are additional information.
func Features(ifname string) []string {
	if len(ifname) >= unix.IFNAMSIZ {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // any socket will do
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var on []string
	for _, o := range offloads {
		if v, ok := ethtool(fd, ifname, o.command); ok && v != 0 {
			on = append(on, o.name)
		}
	}
	flags, _ := ethtool(fd, ifname, ethtoolFlags)
	for _, o := range flagOffloads {
		if flags&o.bit != 0 {
			on = append(on, o.name)
		}
	}
	return on
}

// ethtool asks for one value: struct ifreq with a pointer to struct ethtool_value.
func ethtool(fd int, ifname string, command uint32) (uint32, bool) {
	value := struct{ cmd, data uint32 }{cmd: command}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the union's longest member
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], ifname)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	return value.data, errno == 0
}
