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
	if activeFeature(fd, ifname, "tx-udp_tnl-segmentation") {
		on = append(on, "txudptnl")
	}
	return on
}

// Numbers of the kernel's interface to offloads by their names, and the most of them that are looked at: Linux has 64.
const (
	ethtoolStrings     = 0x1b // ETHTOOL_GSTRINGS
	ethtoolStringCount = 0x37 // ETHTOOL_GSSET_INFO
	ethtoolFeatures    = 0x3a // ETHTOOL_GFEATURES
	featureStrings     = 4    // ETH_SS_FEATURES
	maxFeatures        = 256
	stringLength       = 32 // ETH_GSTRING_LEN
)

// activeFeature reports whether an offload is on that older commands do not have. The kernel numbers these as it likes, so
// the number is looked up by the name.
func activeFeature(fd int, ifname, feature string) bool {
	count := struct {
		cmd, reserved uint32
		mask          uint64
		n             uint32
	}{cmd: ethtoolStringCount, mask: 1 << featureStrings}
	if !ethtoolCall(fd, ifname, unsafe.Pointer(&count)) || count.mask == 0 || count.n > maxFeatures {
		return false
	}
	names := struct {
		cmd, set, n uint32
		text        [maxFeatures][stringLength]byte
	}{cmd: ethtoolStrings, set: featureStrings, n: count.n}
	features := struct {
		cmd, size uint32
		blocks    [maxFeatures / 32]struct{ available, requested, active, neverChanged uint32 }
	}{cmd: ethtoolFeatures, size: (count.n + 31) / 32}
	if !ethtoolCall(fd, ifname, unsafe.Pointer(&names)) || !ethtoolCall(fd, ifname, unsafe.Pointer(&features)) {
		return false
	}
	for i := range min(count.n, names.n) {
		if unix.ByteSliceToString(names.text[i][:]) == feature {
			return features.blocks[i/32].active&(1<<(i%32)) != 0
		}
	}
	return false
}

// ethtool asks for one value.
func ethtool(fd int, ifname string, command uint32) (uint32, bool) {
	value := struct{ cmd, data uint32 }{cmd: command}
	ok := ethtoolCall(fd, ifname, unsafe.Pointer(&value))
	return value.data, ok
}

// ethtoolCall has the kernel fill in a structure of ethtool's, which is as long as its command needs.
func ethtoolCall(fd int, ifname string, what unsafe.Pointer) bool {
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the union's longest member
	}{data: what}
	copy(request.name[:], ifname)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	return errno == 0
}
