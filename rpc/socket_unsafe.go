package rpc

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket reads and writes a unix connection that the runtime has made non-blocking, by system calls that the scheduler is
// not told of: they return at once, and telling it wakes a thread of its own for each call of a client that comes alone.
// It is used by one goroutine at a time in each direction.
type socket struct {
	raw syscall.RawConn

	// of recv and send under way; the functions are made once, since a closure of each call would be allocated
	in, oob   []byte
	n, oobn   int
	errno     syscall.Errno
	linger    bool // recv is likely to have data soon
	recvReady func(fd uintptr) bool

	out       []byte
	sent      int
	outErrno  syscall.Errno
	sendReady func(fd uintptr) bool
}

// newSocket returns a socket of conn, or nil when conn has none.
func newSocket(conn net.Conn) *socket {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.recvReady, s.sendReady = s.tryRecv, s.trySend
	return s
}

// recv waits for data and returns how much came, and the length of the control messages with it.
func (s *socket) recv(p, oob []byte) (n, oobn int, err error) {
	s.in, s.oob = p, oob
	err = s.raw.Read(s.recvReady)
	s.in, s.oob = nil, nil
	switch {
	case err != nil:
		return 0, 0, err
	case s.errno != 0:
		return 0, 0, s.errno
	case s.n == 0:
		return 0, s.oobn, io.EOF
	}
	return s.n, s.oobn, nil
}

func (s *socket) tryRecv(fd uintptr) bool {
	iov := syscall.Iovec{Base: unsafe.SliceData(s.in)}
	iov.SetLen(len(s.in))
	msg := syscall.Msghdr{Iov: &iov, Iovlen: 1, Control: unsafe.SliceData(s.oob)}
	msg.SetControllen(len(s.oob))
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&msg)), syscall.MSG_CMSG_CLOEXEC|syscall.MSG_DONTWAIT)
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			if s.linger && lingerFor(fd) {
				continue
			}
			return false
		case 0:
			s.n, s.oobn, s.errno = int(n), int(msg.Controllen), 0
			raceAcquire(fd)
		default:
			s.n, s.oobn, s.errno = 0, 0, errno
		}
		return true
	}
}

// lingering is how long a thread waits for the next request of a client that just had an answer. Handing the wait to the
// scheduler and waking up again costs several times what it takes to answer a simple question, and clients that ask one
// after the other are back within this time. The scheduler does not know of the wait, and stops for a garbage collection
// only after it, so it is short, and one thread does it at a time while others are free to run.
const lingering = 300 * time.Microsecond

var lingerer atomic.Bool

// lingerFor waits for data and reports whether there is some.
func lingerFor(fd uintptr) bool {
	if procs < 2 || !lingerer.CompareAndSwap(false, true) {
		return false
	}
	defer lingerer.Store(false)
	poll := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	timeout := syscall.NsecToTimespec(int64(lingering))
	n, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
	return errno == 0 && n == 1
}

// procs is how many goroutines run at once.
var procs = runtime.GOMAXPROCS(0)

// send writes all of p.
func (s *socket) send(p []byte) error {
	s.out, s.sent, s.outErrno = p, 0, 0
	err := s.raw.Write(s.sendReady)
	s.out = nil
	if err == nil && s.outErrno != 0 {
		err = s.outErrno
	}
	return err
}

func (s *socket) trySend(fd uintptr) bool {
	raceRelease(fd)
	for s.sent < len(s.out) {
		rest := s.out[s.sent:]
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)),
			syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			s.sent += int(n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			s.outErrno = errno
			return true
		}
	}
	return true
}
