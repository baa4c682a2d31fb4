package rpc

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket reads and writes a unix connection by system calls that return at once, so that the scheduler is not told of them:
// telling it wakes a thread of its own for each call of a client that comes alone.
// It is used by one goroutine at a time in each direction.
type socket struct {
	raw syscall.RawConn

	// of recv and send under way; the functions are made once, since a closure of each call would be allocated
	in, oob   []byte
	n, oobn   int
	errno     syscall.Errno
	linger    bool // a thread waits for the next data; once
	recvReady func(fd uintptr) bool

	out       []byte
	sent      int
	outErrno  syscall.Errno
	sendReady func(fd uintptr) bool
}

// newSocket returns a socket of conn, or nil when conn has none.
func newSocket(conn net.Conn) *socket {
	switch conn.(type) {
	case *net.UnixConn, *localConn:
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
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
	if s.linger {
		s.linger = false
		waitBriefly(fd)
	}
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

// brief is how long a thread waits by itself for the next request of a client that just had an answer, in milliseconds.
// Clients that ask one after the other are back within a fraction of that; a timeout as short as they are would make the
// kernel set a timer for each wait, which costs more than the wait.
const brief = 5

// briefly is set while a thread waits by itself. The runtime lends the thread's place among those that run at once to others
// only when its monitor comes by, so there is one such thread at a time, and none where that is the only place.
var briefly atomic.Bool

// waitBriefly waits for data in the calling thread, which the request then wakes, instead of one that waits in the runtime's
// poller, which wakes others. The end of the connection ends it too.
func waitBriefly(fd uintptr) {
	if procs < 2 || !briefly.CompareAndSwap(false, true) {
		return
	}
	defer briefly.Store(false)
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, _ = unix.Poll(fds[:], brief) // whatever the reason that it ends, recv finds out
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
