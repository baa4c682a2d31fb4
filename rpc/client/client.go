package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// ErrClosed is the reason when a call or stream cannot go on because the connection ended.
var ErrClosed = errors.New("connection to the daemon is closed")

const version = 1

// Client is one connection. Its methods may be called from any goroutine; calls run in parallel.
type Client struct {
	conn net.Conn

	writeMu sync.Mutex

	mu      sync.Mutex
	serial  uint32
	replies map[uint32]chan reply
	streams map[uint32]*Stream // by serial
	onEvent func(program, procedure uint32, body []byte)
	err     error // why the connection ended
	done    chan struct{}
}

type reply struct {
	status rpc.Status
	body   []byte
}

// Dial connects to the daemon's unix socket.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to the daemon at %s: %w", path, err)
	}
	return New(conn), nil
}

// New returns a client of the daemon at the other end of conn, which it owns from now on.
func New(conn net.Conn) *Client {
	c := &Client{
		conn: conn, replies: map[uint32]chan reply{}, streams: map[uint32]*Stream{}, done: make(chan struct{}),
	}
	go c.read()
	return c
}

// Close ends the connection and everything under way on it.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	return c.conn.Close()
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// OnEvent sets what receives messages that no call asked for. It runs in the reader: it must not block nor call back. The
// body is its to keep.
func (c *Client) OnEvent(fn func(program, procedure uint32, body []byte)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onEvent = fn
}

// Open opens the driver that uri names, as libvirt's clients do. It fails with ErrCredentials where Authenticate comes first.
func (c *Client) Open(ctx context.Context, uri string, readOnly bool) error {
	var auth libvirt.AuthListRet
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcAuthList, nil, &auth); err != nil {
		return err
	}
	if slices.Contains(auth.Types, authSASL) {
		return ErrCredentials
	}
	args := libvirt.ConnectOpenArgs{Name: libvirt.OptString{uri}}
	if readOnly {
		args.Flags = libvirt.ConnectRo
	}
	return c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectOpen, &args, nil)
}

// Call makes a call and waits for its reply. args and ret are pointers to the procedure's types, or nil where it has none.
// An error of the daemon is a *rpc.RemoteError.
func (c *Client) Call(ctx context.Context, program, procedure uint32, args, ret any) error {
	serial, replies, err := c.begin(nil, program, procedure, args)
	if err != nil {
		return err
	}
	return c.await(ctx, serial, replies, ret)
}

// begin sends a call; stream, if any, is registered under the call's serial first.
func (c *Client) begin(stream *Stream, program, procedure uint32, args any) (uint32, chan reply, error) {
	ch := make(chan reply, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, nil, c.err
	}
	c.serial++
	serial := c.serial
	c.replies[serial] = ch
	h := rpc.Header{Program: program, Version: version, Procedure: procedure, Serial: serial}
	if stream != nil {
		stream.header = h
		c.streams[serial] = stream
	}
	c.mu.Unlock()
	if err := c.send(h, args, nil); err != nil {
		c.forget(serial)
		return 0, nil, err
	}
	return serial, ch, nil
}

func (c *Client) await(ctx context.Context, serial uint32, ch chan reply, ret any) error {
	select {
	case r := <-ch:
		return r.decode(ret)
	case <-ctx.Done():
		c.forget(serial)
		return ctx.Err()
	case <-c.done:
	}
	select {
	case r := <-ch: // it came before the end
		return r.decode(ret)
	default:
		return c.reason()
	}
}

func (r reply) decode(ret any) error {
	if r.status == rpc.StatusError {
		return rpc.DecodeError(r.body)
	}
	if ret == nil {
		return nil
	}
	return rpc.Unmarshal(r.body, ret)
}

func (c *Client) forget(serial uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.replies, serial)
	delete(c.streams, serial)
}

// message is one message: args in XDR, or raw bytes.
func message(h rpc.Header, args any, raw []byte) ([]byte, error) {
	b := rpc.AppendMessage(nil, h)
	b = append(b, raw...)
	if args != nil {
		var err error
		if b, err = rpc.Marshal(b, args); err != nil {
			return nil, err
		}
	}
	return b, rpc.FinishMessage(b)
}

// send writes one message.
func (c *Client) send(h rpc.Header, args any, raw []byte) error {
	b, err := message(h, args, raw)
	if err != nil {
		return err
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if _, err = c.conn.Write(b); err != nil {
		return fmt.Errorf("write to the daemon: %w", err)
	}
	return nil
}

func (c *Client) read() {
	frames := rpc.NewFrameReader(c.conn, 0)
	defer frames.Close()
	for {
		h, body, files, err := frames.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrClosed
			}
			c.fail(err)
			c.conn.Close()
			return
		}
		for _, f := range files {
			f.Close()
		}
		c.message(h, append([]byte(nil), body...))
	}
}

func (c *Client) message(h rpc.Header, body []byte) {
	switch {
	case h.Program == rpc.ProgramKeepalive:
		c.keepalive(h)
	case h.Type == rpc.TypeReply || h.Type == rpc.TypeReplyWithFDs:
		c.mu.Lock()
		ch := c.replies[h.Serial]
		delete(c.replies, h.Serial)
		stream := c.streams[h.Serial]
		c.mu.Unlock()
		if ch != nil {
			ch <- reply{h.Status, body}
		} else if stream != nil && h.Status == rpc.StatusError {
			stream.packet(h, body)
		}
	case h.Type == rpc.TypeStream:
		c.mu.Lock()
		stream := c.streams[h.Serial]
		c.mu.Unlock()
		if stream != nil {
			stream.packet(h, body)
		}
	case h.Type == rpc.TypeMessage:
		c.mu.Lock()
		fn := c.onEvent
		c.mu.Unlock()
		if fn != nil {
			fn(h.Program, h.Procedure, body)
		}
	}
}

// keepalive answers a ping (procedure 1) with a pong (2). The answer is written aside: the reader must not wait for room.
func (c *Client) keepalive(h rpc.Header) {
	if h.Procedure != 1 {
		return
	}
	go c.send(rpc.Header{Program: rpc.ProgramKeepalive, Version: version, Procedure: 2, Type: rpc.TypeMessage}, nil, nil)
}

// fail ends everything that waits.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	for _, s := range c.streams {
		s.end(err)
	}
	c.streams = map[uint32]*Stream{}
}

func (c *Client) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
