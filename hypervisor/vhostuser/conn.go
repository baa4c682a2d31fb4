package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrProtocol is returned (wrapped) for what a back end must not say. The connection is over then.
var ErrProtocol = errors.New("the back end breaks the vhost-user protocol")

var (
	errEnded   = errors.New("the back end closed the connection")
	errSilent  = errors.New("the back end does not answer")
	errRefused = errors.New("the back end refuses")
)

// conn is one connection to a back end. call and send are for one goroutine at a time; fail is for any.
type conn struct {
	socket  *net.UnixConn
	replies chan message // at most one: the front end asks one thing at a time
	down    chan struct{}

	mu       sync.Mutex
	why      error     // the first thing that went wrong
	deadline time.Time // of the exchange that goes on
}

// newConn takes over a connected stream socket, also when it fails.
func newConn(fd int) (*conn, error) {
	f := os.NewFile(uintptr(fd), "vhost-user socket")
	defer f.Close() // FileConn has duplicated it
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return nil, fmt.Errorf("descriptor %d is no stream socket: %w", fd, errors.Join(err, unix.ENOTSOCK))
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use the vhost-user socket: %w", err)
	}
	socket, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("the vhost-user socket is no UNIX socket")
	}
	return connect(socket), nil
}

// connect starts to read what the back end says.
func connect(socket *net.UnixConn) *conn {
	c := &conn{socket: socket, replies: make(chan message, 1), down: make(chan struct{})}
	go c.read()
	return c
}

// receive implements receiver.
func (c *conn) receive(p, oob []byte) (n, oobn, flags int, err error) {
	n, oobn, flags, _, err = c.socket.ReadMsgUnix(p, oob)
	if errors.Is(err, io.EOF) {
		err = errEnded
	}
	return n, oobn, flags, err
}

// read passes replies on until the connection ends. A back end says nothing unasked on this socket.
func (c *conn) read() {
	defer close(c.down)
	defer c.socket.Close()
	for {
		m, err := readMessage(c)
		if err == nil && m.flags&flagReply == 0 {
			m.close()
			err = fmt.Errorf("%v came from it, which is for a front end to send: %w", m.request, ErrProtocol)
		}
		if err != nil {
			c.fail(err)
			return
		}
		select {
		case c.replies <- m:
		default:
			m.close()
			c.fail(fmt.Errorf("a reply to %v that nobody asked for: %w", m.request, ErrProtocol))
			return
		}
	}
}

// fail ends the connection. The first reason is kept.
func (c *conn) fail(why error) {
	c.mu.Lock()
	if c.why == nil {
		c.why = why
	}
	c.mu.Unlock()
	c.socket.Close()
}

// close ends the connection and waits for its reader.
func (c *conn) close() {
	c.fail(net.ErrClosed)
	<-c.down
	select {
	case m := <-c.replies:
		m.close()
	default:
	}
}

func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// patience gives the exchanges from now on that long in all.
func (c *conn) patience(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = time.Now().Add(d)
}

func (c *conn) until() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline
}

// send sends a message that has no reply. Descriptors stay the caller's.
func (c *conn) send(r request, flags uint32, payload []byte, fds ...int) error {
	m := message{request: r, flags: flags | flagVersion, payload: payload}
	b := m.encode()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := c.socket.SetWriteDeadline(c.until()); err != nil {
		return c.broken(r, err)
	}
	n, _, err := c.socket.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.socket.Write(b[n:])
	}
	if err != nil {
		return c.broken(r, err)
	}
	return nil
}

// broken ends the connection for an error of it.
func (c *conn) broken(r request, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errSilent
	}
	c.fail(err)
	return fmt.Errorf("%v: %w", r, c.reason())
}

// call sends a message and waits for its reply, whose descriptors are the caller's.
func (c *conn) call(r request, flags uint32, payload []byte, fds ...int) (message, error) {
	select {
	case m := <-c.replies:
		m.close()
		return message{}, c.broken(r, fmt.Errorf("a reply to %v that nobody asked for: %w", m.request, ErrProtocol))
	default:
	}
	if err := c.send(r, flags, payload, fds...); err != nil {
		return message{}, err
	}
	timer := time.NewTimer(time.Until(c.until()))
	defer timer.Stop()
	select {
	case m := <-c.replies:
		if m.request != r {
			m.close()
			return message{}, c.broken(r, fmt.Errorf("a reply to %v in place of it: %w", m.request, ErrProtocol))
		}
		return m, nil
	case <-c.down:
		return message{}, fmt.Errorf("%v: %w", r, c.reason())
	case <-timer.C:
		return message{}, c.broken(r, errSilent)
	}
}

// ask is call for a reply of a fixed size without descriptors.
func (c *conn) ask(r request, flags uint32, payload []byte, size int, fds ...int) ([]byte, error) {
	m, err := c.call(r, flags, payload, fds...)
	if err != nil {
		return nil, err
	}
	if len(m.fds) > 0 || len(m.payload) != size {
		n := len(m.fds)
		m.close()
		return nil, c.broken(r, fmt.Errorf("a reply of %d bytes with %d descriptors: %w", len(m.payload), n, ErrProtocol))
	}
	return m.payload, nil
}

// askWord is ask for a number.
func (c *conn) askWord(r request) (uint64, error) {
	b, err := c.ask(r, 0, nil, 8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}
