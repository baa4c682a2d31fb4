package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/hypervisor"
)

// handConfig is the file of --config: a Config and, for each name in it, what to open. Values of Open are
//
//	/path         a file, opened for reading and writing, or for reading when that is refused; created never
//	create:/path  a file for writing, created and emptied
//	tap:NAME      a tap interface with vnet headers; several names of one interface are its queues
//	unix:/path    a listening unix socket; an old one is replaced
//	stdio         this process's stdin and stdout
//
// The engine is not confined while it opens them.
type handConfig struct {
	Config hypervisor.Config              `json:"config"`
	Open   map[hypervisor.FileName]string `json:"open"`
}

func openFile(path string) (*hypervisor.Config, map[hypervisor.FileName]int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var h handConfig
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	if h.Config.KVM == "" {
		h.Config.KVM = "kvm"
	}
	if _, ok := h.Open[h.Config.KVM]; !ok {
		if h.Open == nil {
			h.Open = map[hypervisor.FileName]string{}
		}
		h.Open[h.Config.KVM] = "/dev/kvm"
	}
	if h.Config.UUID == "" {
		h.Config.UUID = "00000000-0000-0000-0000-000000000001"
	}
	files := map[hypervisor.FileName]int{}
	for name, what := range h.Open {
		fd, err := open(what)
		if err != nil {
			return nil, nil, fmt.Errorf("open %s for %q: %w", what, name, err)
		}
		files[name] = fd
	}
	return &h.Config, files, nil
}

func open(what string) (int, error) {
	kind, arg, _ := strings.Cut(what, ":")
	switch kind {
	case "stdio":
		return openStdio()
	case "tap":
		return openTap(arg)
	case "unix":
		return openListener(arg)
	case "create":
		return unix.Open(arg, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
	}
	fd, err := unix.Open(what, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == unix.EACCES || err == unix.EROFS || err == unix.EPERM {
		fd, err = unix.Open(what, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

// openStdio returns one end of a socket pair; the other is copied from and to this process's own stdio.
func openStdio() (int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	ours := os.NewFile(uintptr(fds[1]), "stdio")
	go io.Copy(ours, os.Stdin)
	go io.Copy(os.Stdout, ours)
	return fds[0], nil
}

func openListener(path string) (int, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return -1, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return -1, err
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	defer l.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// openTap opens a queue of a tap that exists, or makes one, with the 12-byte vnet header of virtio 1.x.
func openTap(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	var last error
	for _, flags := range []uint16{unix.IFF_MULTI_QUEUE, 0} {
		req, err := unix.NewIfreq(name)
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
		if last = unix.IoctlIfreq(fd, unix.TUNSETIFF, req); last == nil {
			break
		}
	}
	if last == nil {
		last = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, 12)
	}
	if last != nil {
		unix.Close(fd)
		return -1, last
	}
	return fd, nil
}
