package services

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/network/tftp"
)

// serveTFTP gives guests files to boot from.
func (c *child) serveTFTP() error {
	c.mu.Lock()
	block := blockSize(c.cfg.MTU)
	c.mu.Unlock()
	s := &tftp.Server{Open: c.openBootFile, Block: block, Log: func(format string, args ...any) { c.log.printf("tftp: "+format, args...) }}
	return s.Serve(c.tftp)
}

// blockSize is what fits into one packet of the network, in bytes: the MTU less the headers of IPv4, UDP and TFTP.
func blockSize(mtu int) int {
	const usual, headers = 1500, 20 + 8 + 4
	if mtu == 0 {
		mtu = usual
	}
	return mtu - headers
}

// openBootFile opens a file below the directory, and nowhere else: the kernel lets no part of the name, link or dot-dot, lead out
// of it. Names may begin with a slash and have backslashes, as firmware writes them.
func (c *child) openBootFile(name string) (tftp.File, error) {
	name = strings.TrimLeft(strings.ReplaceAll(name, `\`, "/"), "/")
	fd, err := unix.Openat2(int(c.files.Fd()), name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
		err = unix.EACCES // it leads out
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
