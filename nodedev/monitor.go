package nodedev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The multicast groups of NETLINK_KOBJECT_UEVENT: the kernel's own, and the one on which udevd repeats an event once it has
// dealt with it.
const (
	groupKernel = 1
	groupUdev   = 2
)

// receiveBuffer is room for a burst of events, such as 256 virtual functions that come at once.
const receiveBuffer = 8 << 20

// monitor is a socket that receives uevents.
type monitor struct {
	file  *os.File
	group uint32
	buf   []byte
	oob   []byte
}

// Listen opens the socket on which uevents come. Where udevd runs it listens to udevd, so that names and links in /dev that
// udevd gives are there when the event arrives.
func Listen() (Source, error) {
	group := uint32(groupKernel)
	if _, err := os.Stat("/run/udev/control"); err == nil {
		group = groupUdev
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open the socket of the kernel's device events: %w", err)
	}
	m := &monitor{file: os.NewFile(uintptr(fd), "uevents"), group: group, buf: make([]byte, maxUevent), oob: make([]byte, 256)}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // without privileges; less only means ErrMissed sooner
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		m.file.Close()
		return nil, fmt.Errorf("ask for the senders of device events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group}); err != nil {
		m.file.Close()
		return nil, fmt.Errorf("listen to the kernel's device events: %w", err)
	}
	return m, nil
}

// Close ends the socket, and a Receive that waits.
func (m *monitor) Close() error { return m.file.Close() }

// Receive waits for the next uevent. What others than the kernel or root send is dropped: any process may send to sockets.
func (m *monitor) Receive() (Uevent, error) {
	raw, err := m.file.SyscallConn()
	if err != nil {
		return Uevent{}, err
	}
	for {
		var n, oobn int
		var from unix.Sockaddr
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), m.buf, m.oob, 0)
			return rerr != unix.EAGAIN
		})
		switch {
		case err != nil: // there is no deadline, so it was closed
			return Uevent{}, os.ErrClosed
		case errors.Is(rerr, unix.ENOBUFS):
			return Uevent{}, ErrMissed
		case errors.Is(rerr, unix.EINTR):
			continue
		case rerr != nil:
			return Uevent{}, fmt.Errorf("receive device events: %w", rerr)
		}
		if !m.trusted(from, m.oob[:oobn]) {
			continue
		}
		if u, err := parseUevent(m.buf[:n]); err == nil {
			return u, nil
		}
	}
}

// trusted reports whether a message is from whom we listen to: the kernel has no port; udevd is root.
func (m *monitor) trusted(from unix.Sockaddr, oob []byte) bool {
	sender, ok := from.(*unix.SockaddrNetlink)
	if !ok || sender.Groups != m.group {
		return false
	}
	if m.group == groupKernel {
		return sender.Pid == 0
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return cred.Uid == 0
		}
	}
	return false
}
