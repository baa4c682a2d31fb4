package rpc

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"

	"virtd/virterr"
)

// Call is one request in progress. A handler may use it until it returns.
type Call struct {
	Conn   *Conn
	Proc   *Procedure
	Files  []*os.File // came with the call; closed after the handler returns, unless it sets the entry to nil
	header Header

	handling handling
	args     any
	size     int // of the arguments on the wire, in bytes
	reply    []*os.File
	stream   func(*Stream) error
	mode     StreamMode
	holes    bool
}

// ReplyFiles sends descriptors with the reply. The call owns them from now on.
func (c *Call) ReplyFiles(files ...*os.File) { c.reply = append(c.reply, files...) }

// StartStream opens a stream when the handler succeeds. After the reply is sent, fn runs in a goroutine of its own; when it
// returns, the stream is finished, or aborted with its error.
func (c *Call) StartStream(mode StreamMode, fn func(*Stream) error) { c.mode, c.stream = mode, fn }

// StartSparseStream is StartStream for a stream in which both sides may send holes.
func (c *Call) StartSparseStream(mode StreamMode, fn func(*Stream) error) {
	c.StartStream(mode, fn)
	c.holes = true
}

// newArgs decodes the body of a call for its procedure.
func newArgs(p *Procedure, body []byte) (any, error) {
	if p.Args == nil {
		if len(body) != 0 {
			return nil, fmt.Errorf("%s takes no arguments, %d bytes came", p.Name, len(body))
		}
		return &struct{}{}, nil
	}
	v := reflect.New(p.Args).Interface()
	if err := Unmarshal(body, v); err != nil {
		return nil, err
	}
	return v, nil
}

// run answers the call.
func (c *Call) run(ctx context.Context) {
	ret, err := c.invoke(ctx)
	for _, f := range c.Files {
		if f != nil {
			f.Close()
		}
	}
	if err != nil {
		for _, f := range c.reply {
			f.Close()
		}
		c.Conn.replyError(c.header, err)
		return
	}
	var stream *Stream
	if c.stream != nil {
		// Registered before the reply: the client's first packet can follow at once.
		if stream, err = c.Conn.addStream(c.header, c.mode, c.holes); err != nil {
			c.Conn.replyError(c.header, err)
			return
		}
	}
	sent := c.Conn.replyOK(c.header, ret, c.reply)
	if stream == nil {
		return
	}
	if !sent {
		c.Conn.dropStream(stream)
		return
	}
	c.Conn.tasks.Add(1)
	go func() {
		defer c.Conn.tasks.Done()
		stream.run(c.stream)
	}()
}

// invoke calls the handler and turns a panic into an error: one bad call must not end the daemon that all guests need.
func (c *Call) invoke(ctx context.Context) (ret any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.Conn.server.log.Error("handler panicked", "procedure", c.Proc.Name, "panic", p, "stack", string(debug.Stack()))
			err = virterr.NewFrom(virterr.FromRPC, virterr.InternalError, "%s failed in an unexpected way; the daemon's log has the details", c.Proc.API)
		}
	}()
	return c.handling.fn(ctx, c, c.args)
}
