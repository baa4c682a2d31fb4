package kvm

import (
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// OpenConsole implements driver.Instance: the other side of a pty, or a connection to a unix socket.
func (i *instance) OpenConsole(alias string) (io.ReadWriteCloser, error) {
	if i.proc.Ended() {
		return nil, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	if tty, ok := i.Runtime().TTYs[alias]; ok {
		return i.openTTY(tty)
	}
	if path := i.consoleSocket(alias); path != "" {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return nil, virterr.New(virterr.SystemError, "Failed to connect socket to '%s': %w", path, virterr.Strerror(err))
		}
		return c, nil
	}
	return nil, virterr.New(virterr.InternalError, "character device %s is not using a PTY or UNIX", alias)
}

// openTTY opens the other side of the engine's pty. The engine holds the pty while it lives, so that its number cannot
// belong to another one: that it lives is looked at after opening.
func (i *instance) openTTY(path string) (io.ReadWriteCloser, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError("console", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if i.proc.Ended() {
		f.Close()
		return nil, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	return tty{f}, nil
}

// tty is our side of a pty. Reading ends with io.EOF when the engine has ended.
type tty struct{ *os.File }

// Read implements io.Reader.
func (t tty) Read(p []byte) (int, error) {
	n, err := t.File.Read(p)
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}

// consoleSocket returns the path of the unix socket that the device listens at.
func (i *instance) consoleSocket(alias string) string {
	devices := i.definition().View().Devices
	for _, s := range devices.Serials {
		if s.Alias != nil && s.Alias.Name == alias && s.Source != nil && s.Source.UNIX != nil && s.Source.UNIX.Mode != "connect" {
			return s.Source.UNIX.Path
		}
	}
	for _, c := range devices.Consoles {
		if c.Alias != nil && c.Alias.Name == alias && c.Source != nil && c.Source.UNIX != nil && c.Source.UNIX.Mode != "connect" {
			return c.Source.UNIX.Path
		}
	}
	return ""
}
