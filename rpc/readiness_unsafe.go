package rpc

import (
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readiness lets goroutines sleep until a localConn can be read, or written. It is an epoll set of that one descriptor. The
// runtime's poller watches the set, and the set watches the connection only from when somebody goes to sleep until the event
// that wakes him (EPOLLONESHOT).
type readiness struct {
	conn  *localConn
	event uint32
	set   *os.File
	raw   syscall.RawConn
	armed bool // the set watches the connection
	errno syscall.Errno
	step  func(set uintptr) bool // made once, as a closure of each wait would be allocated
}

// newReadiness makes the set for an event of conn.
func newReadiness(conn *localConn, event uint32) (*readiness, error) {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.EpollCtl(set, unix.EPOLL_CTL_ADD, conn.fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT})
	if err == nil {
		err = unix.SetNonblock(set, true) // what the runtime's poller takes
	}
	if err != nil {
		_ = unix.Close(set)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	r := &readiness{conn: conn, event: event, set: os.NewFile(uintptr(set), "readiness of a connection")}
	if r.raw, err = r.set.SyscallConn(); err != nil {
		r.set.Close()
		return nil, err
	}
	r.step = r.stepOf
	return r, nil
}

// wait sleeps until the event, the deadline of set or its end. It may return early.
func (r *readiness) wait() error {
	r.errno = 0
	if err := r.raw.Read(r.step); err != nil {
		if r.conn.closed.Load() {
			return net.ErrClosed
		}
		return err
	}
	if r.errno != 0 {
		return os.NewSyscallError("wait for a connection", r.errno)
	}
	return nil
}

// stepOf makes the set watch the connection, if it does not, and takes the event, if there is one. The set tells the poller of
// nothing while it has an event that nobody took: one that a deadline left, or one that came while the kernel handed over the one
// before. That is why it is looked at before anybody sleeps.
func (r *readiness) stepOf(set uintptr) bool {
	if !r.armed {
		if r.arm(set); !r.armed {
			return r.errno != 0
		}
	}
	var event unix.EpollEvent
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, set, uintptr(unsafe.Pointer(&event)), 1, 0, 0, 0)
	if errno != 0 && errno != syscall.EINTR {
		r.errno = errno
	}
	if errno == 0 && n > 0 {
		r.armed = false
	}
	return errno != 0 || n > 0
}

func (r *readiness) arm(set uintptr) {
	fd, err := r.conn.use()
	if err != nil {
		return // the set is closed as well, or will be
	}
	defer r.conn.release()
	event := unix.EpollEvent{Events: r.event | unix.EPOLLONESHOT}
	_, _, r.errno = syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, set, unix.EPOLL_CTL_MOD, uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	r.armed = r.errno == 0
}
