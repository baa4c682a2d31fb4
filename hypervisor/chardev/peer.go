package chardev

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func newPeer(kind string, fd int, hungUp func()) (peer, error) {
	if kind == File {
		return filePeer{fd}, nil
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("console descriptor %d: %w", fd, err)
	}
	f := os.NewFile(uintptr(fd), "console")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("console descriptor %d: %w", fd, err)
	}
	return &streamPeer{f: f, raw: raw, pty: kind == PTY, hungUp: hungUp}, nil
}

// filePeer writes to a file and never reads.
type filePeer struct{ fd int }

func (f filePeer) write(p []byte) (int, error) { return unix.Write(f.fd, p) }
func (f filePeer) read([]byte) (int, error)    { return 0, io.EOF }
func (f filePeer) present() bool               { return true }
func (f filePeer) close() error                { return unix.Close(f.fd) }

// streamPeer is a socket or a pty master on the runtime's poller.
type streamPeer struct {
	f   *os.File
	raw syscall.RawConn
	pty bool
	// hungUp is called when nobody has the other side of a pty open any more.
	hungUp func()
}

// present asks the kernel: a pty master hangs up while no program has the other side open.
func (s *streamPeer) present() bool {
	up := true
	if s.pty {
		err := s.raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd)}}
			if _, err := unix.Poll(p, 0); err == nil {
				up = p[0].Revents&unix.POLLHUP == 0
			}
		})
		up = up && err == nil
	}
	return up
}

// write gives up after stuckAfter without progress, and the rest of that batch is lost.
func (s *streamPeer) write(p []byte) (int, error) {
	if err := s.f.SetWriteDeadline(time.Now().Add(stuckAfter)); err != nil {
		return 0, err
	}
	return s.f.Write(p)
}

// read waits for input. A pty master without a program at the other side fails with EIO at once; the poller is edge-
// triggered, so waiting for its next edge costs nothing until that side is written to, or closed again.
func (s *streamPeer) read(p []byte) (n int, err error) {
	rerr := s.raw.Read(func(fd uintptr) bool {
		for {
			if n, err = unix.Read(int(fd), p); err != unix.EINTR {
				break
			}
		}
		if s.pty && err == unix.EIO {
			s.hungUp()
			return false
		}
		return err != unix.EAGAIN
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case err != nil:
		return 0, err
	case n <= 0:
		return 0, io.EOF
	}
	return n, nil
}

func (s *streamPeer) close() error { return s.f.Close() }
