package bridge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// openMacvtapQueues opens the character device of a macvtap once for each queue.
func openMacvtapQueues(a *netlink.LinkAttrs, n int) (*Tap, error) {
	t := &Tap{Name: a.Name, Index: a.Index}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if n > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range n {
		f, err := openTapNode(a)
		if err == nil {
			t.Files = append(t.Files, f)
			err = setMacvtapFlags(f, a.Name, flags)
		}
		if err != nil {
			t.Close()
			return nil, err
		}
	}
	if err := t.prepare(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// setMacvtapFlags prepares a queue, and makes sure that it is one of the macvtap of that name.
func setMacvtapFlags(f *os.File, name string, flags uint16) error {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = unix.IoctlIfreq(int(f.Fd()), unix.TUNGETIFF, ifr)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot set the flags of macvtap tap device %s of %s: %w", f.Name(), name, errno(err))
	}
	if ifr.Name() != name {
		return virterr.New(virterr.InternalError, "macvtap tap device %s belongs to %s, not to %s", f.Name(), ifr.Name(), name)
	}
	return nil
}

// openTapNode opens the character device of a macvtap. Its number is in sysfs; the node in /dev is made by the kernel or by
// udev, which may be late or absent, and its name is that of another link's device in another network namespace. Where it is
// not the right one, a node of our own serves for the moment of the opening.
func openTapNode(a *netlink.LinkAttrs) (*os.File, error) {
	path := fmt.Sprintf("/dev/tap%d", a.Index)
	number, known := tapNumber(a)
	if !known || isDevice(path, number) {
		f, err := openNode(path)
		if err != nil {
			return nil, virterr.New(virterr.SystemError, "cannot open macvtap tap device %s of %s: %w", path, a.Name, errno(err))
		}
		return f, nil
	}
	own := fmt.Sprintf("/dev/.virtd-%d-tap%d", os.Getpid(), a.Index)
	err := unix.Mknod(own, unix.S_IFCHR|0o600, int(number))
	if errors.Is(err, unix.EEXIST) { // of a virtd that was killed in between
		if err = os.Remove(own); err == nil {
			err = unix.Mknod(own, unix.S_IFCHR|0o600, int(number))
		}
	}
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot make a device node for macvtap %s: %w", a.Name, errno(err))
	}
	f, err := openNode(own)
	if rerr := os.Remove(own); err == nil && rerr != nil {
		f.Close()
		err = rerr
	}
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot open macvtap tap device %s of %s: %w", own, a.Name, errno(err))
	}
	return f, nil
}

func openNode(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// tapNumber finds the device number of a macvtap in sysfs. Kernels differ in whether there is a folder named macvtap.
func tapNumber(a *netlink.LinkAttrs) (number uint64, ok bool) {
	for _, dir := range []string{"macvtap", ""} {
		text, err := os.ReadFile(filepath.Join("/sys/class/net", a.Name, dir, fmt.Sprintf("tap%d", a.Index), "dev"))
		if err != nil {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(strings.TrimSpace(string(text)), "%d:%d", &major, &minor); err == nil {
			return unix.Mkdev(major, minor), true
		}
	}
	return 0, false
}

func isDevice(path string, number uint64) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && uint64(st.Rdev) == number
}
