package rpc

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// localConn is a unix connection that the runtime's poller does not watch all the time, as it does a net.UnixConn. There,
// every request wakes a thread that waits in the poller, whether or not somebody waits for the request already, and so does
// every answer that the client takes from its socket. Here the poller is asked only when a goroutine is to sleep (see
// readiness), and a thread that waits by itself (see waitBriefly) is the only one that a request wakes.
//
// It is a net.Conn. Its methods may be called from any goroutine, but by one reader and one writer at a time.
type localConn struct {
	local, remote net.Addr

	life   sync.RWMutex // held while fd is used; for writing, by what closes it
	fd     int
	closed atomic.Bool

	in              *readiness   // of data
	readBy, writeBy atomic.Int64 // deadlines, as by sinceStart; 0: none

	mu  sync.Mutex
	out *readiness // of room; made when there is none for the first time, as most clients read what they ask for
	end time.Time  // write deadline, for out
}

var start = time.Now()

// sinceStart is a deadline as a number that time.Since(start) reaches, and 0 when there is none.
func sinceStart(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	if d := t.Sub(start); d != 0 {
		return int64(d)
	}
	return -1
}

// over reports whether a deadline has passed. A client that never lets its reader wait meets it here.
func over(deadline *atomic.Int64) bool {
	d := deadline.Load()
	return d != 0 && int64(time.Since(start)) >= d
}

// newLocalConn takes the place of conn, which is closed. When there are no descriptors for that, it returns conn itself.
func newLocalConn(conn net.Conn) net.Conn {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return conn
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return conn
	}
	c := &localConn{local: conn.LocalAddr(), remote: conn.RemoteAddr(), fd: -1}
	if raw.Control(func(fd uintptr) { c.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }) != nil || err != nil {
		return conn
	}
	if c.in, err = newReadiness(c, unix.EPOLLIN); err != nil {
		_ = unix.Close(c.fd)
		return conn
	}
	conn.Close() // the poller forgets its descriptor; the connection stays
	return c
}

// use returns the descriptor, which stays open until release.
func (c *localConn) use() (int, error) {
	c.life.RLock()
	if c.closed.Load() {
		c.life.RUnlock()
		return -1, net.ErrClosed
	}
	return c.fd, nil
}

func (c *localConn) release() { c.life.RUnlock() }

// SyscallConn returns what reads and writes with system calls of the caller's own. They must not block for long.
func (c *localConn) SyscallConn() (syscall.RawConn, error) { return localRaw{c}, nil }

type localRaw struct{ c *localConn }

func (r localRaw) Control(f func(fd uintptr)) error {
	fd, err := r.c.use()
	if err != nil {
		return err
	}
	defer r.c.release()
	f(uintptr(fd))
	return nil
}

// Read calls f until it reports true, and waits for data in between.
func (r localRaw) Read(f func(fd uintptr) bool) error {
	for {
		if done, err := r.c.try(f, &r.c.readBy); done || err != nil {
			return err
		}
		if err := r.c.in.wait(); err != nil {
			return err
		}
	}
}

// Write calls f until it reports true, and waits for room in between.
func (r localRaw) Write(f func(fd uintptr) bool) error {
	for {
		if done, err := r.c.try(f, &r.c.writeBy); done || err != nil {
			return err
		}
		out, err := r.c.room()
		if err != nil {
			return err
		}
		if err := out.wait(); err != nil {
			return err
		}
	}
}

func (c *localConn) try(f func(fd uintptr) bool, deadline *atomic.Int64) (bool, error) {
	if over(deadline) {
		return false, os.ErrDeadlineExceeded
	}
	fd, err := c.use()
	if err != nil {
		return false, err
	}
	defer c.release()
	return f(uintptr(fd)), nil
}

// room returns what tells when there is room to write.
func (c *localConn) room() (*readiness, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return nil, net.ErrClosed
	}
	if c.out != nil {
		return c.out, nil
	}
	out, err := newReadiness(c, unix.EPOLLOUT)
	if err != nil {
		return nil, err
	}
	if err := out.set.SetReadDeadline(c.end); err != nil {
		out.set.Close()
		return nil, err
	}
	c.out = out
	return out, nil
}

// Read reads what has arrived. Descriptors that came with it are lost; a FrameReader takes them.
func (c *localConn) Read(p []byte) (n int, err error) {
	n, _, err = newSocket(c).recv(p, nil)
	return n, err
}

// Write writes all of p.
func (c *localConn) Write(p []byte) (int, error) {
	n, _, err := c.WriteMsgUnix(p, nil, nil)
	return n, err
}

// WriteMsgUnix writes all of p, with the control messages oob at its first byte. The address must be nil.
func (c *localConn) WriteMsgUnix(p, oob []byte, _ *net.UnixAddr) (n, oobn int, err error) {
	var errno error
	err = localRaw{c}.Write(func(fd uintptr) bool {
		for n < len(p) {
			var sent int
			sent, errno = unix.SendmsgN(int(fd), p[n:], oob[oobn:], nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch errno {
			case nil:
				n, oobn = n+sent, len(oob)
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				return true
			}
		}
		return true
	})
	if err == nil {
		err = errno
	}
	return n, oobn, err
}

// Close ends the connection at once, for the peer and for whoever reads or writes.
func (c *localConn) Close() error {
	c.mu.Lock()
	if c.closed.Swap(true) {
		c.mu.Unlock()
		return net.ErrClosed
	}
	out := c.out
	c.mu.Unlock()
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // ends waitBriefly
	c.in.set.Close()
	if out != nil {
		out.set.Close()
	}
	c.life.Lock()
	defer c.life.Unlock()
	return os.NewSyscallError("close", unix.Close(c.fd))
}

func (c *localConn) LocalAddr() net.Addr  { return c.local }
func (c *localConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *localConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline ends reading at t, also what is under way; the zero time is never. waitBriefly does not hear of it: it may
// be that much late.
func (c *localConn) SetReadDeadline(t time.Time) error {
	c.readBy.Store(sinceStart(t))
	return c.in.set.SetReadDeadline(t)
}

// SetWriteDeadline ends writing at t, also what is under way; the zero time is never.
func (c *localConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy.Store(sinceStart(t))
	c.end = t
	if c.out == nil {
		return nil
	}
	return c.out.set.SetReadDeadline(t)
}
