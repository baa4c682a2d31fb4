package rpc

import (
	"io"
	"net"
	"syscall"
	"unsafe"
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
