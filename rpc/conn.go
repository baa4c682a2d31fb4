package rpc

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"virtd/virterr"
)

// Conn is one client's connection. Its methods may be called from any goroutine.
type Conn struct {
	server  *Server
	number  uint64 // no other connection of the server has it
	net     net.Conn
	reader  *FrameReader
	out     *outbox
	peer    Peer
	refusal error // every call is answered with it
	lanes   [lanes]*lane
	tasks   sync.WaitGroup // calls and streams that are under way
	relay   relay
	sending sync.WaitGroup // the outbox's own goroutine
	over    chan struct{}  // closed when the connection is, and nothing is under way
	alive   keepalive
	auth    authentication
	plain   bool          // others can listen
	gone    chan struct{} // closed by abort
	end     sync.Once     // of gone

	readOnly atomic.Bool
	opened   atomic.Bool
	closing  atomic.Bool // no further calls; the connection closes when those under way are answered
	session  atomic.Pointer[any]

	mu      sync.Mutex
	streams map[streamKey]*Stream // nil once the client left
}

type streamKey struct {
	program, procedure, serial uint32
}

// Peer returns who is at the other end.
func (c *Conn) Peer() Peer { return c.peer }

// ReadOnly reports whether the connection may only look.
func (c *Conn) ReadOnly() bool { return c.readOnly.Load() }

// Secure reports whether nobody else can listen to the connection: it is local or encrypted.
func (c *Conn) Secure() bool { return !c.plain }

// Open lets calls other than the handshake's through, restricted to looking if readOnly. A connection of a read-only socket
// stays read-only. It reports false when the connection was open already.
func (c *Conn) Open(readOnly bool) bool {
	if readOnly {
		c.readOnly.Store(true)
	}
	if c.opened.Swap(true) {
		return false
	}
	c.net.SetReadDeadline(time.Time{})
	if c.closing.Load() {
		c.net.SetReadDeadline(past) // CloseWhenIdle came in between
	}
	return true
}

// Opened reports whether Open was called.
func (c *Conn) Opened() bool { return c.opened.Load() }

// SetSession stores what the daemon keeps for the connection.
func (c *Conn) SetSession(v any) { c.session.Store(&v) }

// Session returns what SetSession stored, or nil.
func (c *Conn) Session() any {
	if p := c.session.Load(); p != nil {
		return *p
	}
	return nil
}

// CloseWhenIdle closes the connection once the calls under way are answered.
func (c *Conn) CloseWhenIdle() {
	c.closing.Store(true)
	c.net.SetReadDeadline(past) // wakes the reader
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// drainTime is how long a client may take to read the last answers.
const drainTime = 10 * time.Second

// SendEvent queues a message that no call asked for. It never blocks. A client that reads its events far too slowly is
// disconnected.
func (c *Conn) SendEvent(program, procedure uint32, msg any) error {
	h := Header{Program: program, Version: programVersion, Procedure: procedure, Type: TypeMessage}
	buf := getBuffer()
	b, err := Marshal(AppendMessage(*buf, h), msg)
	if err == nil {
		err = FinishMessage(b)
	}
	*buf = b
	if err != nil {
		putBuffer(buf)
		return err
	}
	if !c.out.post(outMessage{buf: buf}, outboxEvents) {
		c.server.log.Warn("client is too slow for its events, disconnecting it", "peer", c.peer)
		go c.abort()
		return rpcError("client is too slow for its events")
	}
	return nil
}

// serve reads until the client leaves or misbehaves.
func (c *Conn) serve() {
	c.sending.Go(c.out.run)
	c.readOn()
	<-c.over
}

// readOn reads until the client leaves or misbehaves, and then ends the connection; or until a call takes so long that
// another goroutine does.
func (c *Conn) readOn() {
	if err := c.readLoop(); err != errHandedOn {
		c.finish(err)
	}
}

// finish ends the connection when nobody reads any more.
func (c *Conn) finish(err error) {
	defer close(c.over)
	c.relay.stop()
	c.alive.stop()
	if c.server.stopping() {
		c.net.SetWriteDeadline(time.Now().Add(drainTime))
		c.refuseStreams(errStopping)
	}
	c.abortStreams()
	if err != nil && !c.orderly(err) {
		c.server.log.Debug("connection ended", "peer", c.peer, "error", err)
		c.abort()
	}
	c.tasks.Wait()
	c.net.SetWriteDeadline(time.Now().Add(drainTime))
	c.out.drain()
	c.abort()
	c.reader.Close()
	c.sending.Wait()
	for _, fn := range c.server.registry.onClose {
		fn(c)
	}
}

// orderly reports whether reading ended in a way that still lets answers be sent.
func (c *Conn) orderly(err error) bool {
	return errors.Is(err, io.EOF) || c.closing.Load() && errors.Is(err, os.ErrDeadlineExceeded)
}

// abort closes the connection at once; what is queued is lost.
func (c *Conn) abort() {
	c.end.Do(func() { close(c.gone) })
	c.out.close()
	c.net.Close()
	for _, l := range c.lanes {
		l.close()
	}
	c.abortStreams()
}

func (c *Conn) readLoop() error {
	for !c.closing.Load() {
		h, body, files, err := c.reader.Next()
		if err != nil {
			return err
		}
		c.alive.heard()
		if err := c.message(h, body, files); err != nil {
			return err
		}
	}
	return io.EOF
}

// message handles one message from the client. An error ends the connection, or reading it in this goroutine.
func (c *Conn) message(h Header, body []byte, files []*os.File) error {
	if h.Program == ProgramKeepalive {
		closeFiles(files)
		return c.keepaliveMessage(h)
	}
	switch h.Type {
	case TypeCall, TypeCallWithFDs:
		return c.call(h, body, files)
	case TypeStream, TypeStreamHole:
		if s := c.findStream(h); s != nil {
			s.packet(h, body)
		} // else it came after the end of the stream: dropped
	default:
		closeFiles(files)
		c.replyError(h, rpcError("unexpected message type %d", h.Type))
	}
	return nil
}

// replyOK sends a result and reports whether it could be sent.
func (c *Conn) replyOK(h Header, ret any, files []*os.File) bool {
	h.Status = StatusOK
	h.Type = TypeReply
	if files != nil {
		h.Type = TypeReplyWithFDs
	}
	buf := getBuffer()
	b := AppendMessage(*buf, h)
	var err error
	if files != nil {
		b = binary.BigEndian.AppendUint32(b, uint32(len(files)))
	}
	if ret != nil {
		b, err = Marshal(b, ret)
	}
	if err == nil {
		err = FinishMessage(b)
	}
	*buf = b
	if err != nil {
		putBuffer(buf)
		closeFiles(files)
		c.replyError(h, rpcError("unable to encode the reply: %v", err))
		return false
	}
	return c.out.send(outMessage{buf, files}, outboxReplies)
}

func (c *Conn) replyError(h Header, err error) {
	h.Type = TypeReply
	c.sendError(h, err)
}

// streamError aborts a stream at the client's side.
func (c *Conn) streamError(h Header, err error) {
	h.Type = TypeStream
	c.sendError(h, err)
}

func (c *Conn) sendError(h Header, err error) {
	h.Status = StatusError
	buf := getBuffer()
	b, merr := appendError(AppendMessage(*buf, h), err)
	if merr == nil {
		merr = FinishMessage(b)
	}
	*buf = b
	if merr != nil {
		putBuffer(buf)
		return // the text is bounded; it cannot fail
	}
	c.out.send(outMessage{buf: buf}, outboxReplies)
}

func (c *Conn) sendStream(h Header, status Status, data []byte) bool {
	h.Type, h.Status = TypeStream, status
	buf := getBuffer()
	b := append(AppendMessage(*buf, h), data...)
	if err := FinishMessage(b); err != nil {
		putBuffer(buf)
		return false
	}
	*buf = b
	return c.out.send(outMessage{buf: buf}, outboxStream)
}

// sendHole sends a run of zero bytes by its length.
func (c *Conn) sendHole(h Header, length int64) bool {
	h.Type, h.Status = TypeStreamHole, StatusContinue
	buf := getBuffer()
	b, err := Marshal(AppendMessage(*buf, h), &hole{Length: length})
	if err == nil {
		err = FinishMessage(b)
	}
	*buf = b
	if err != nil {
		putBuffer(buf)
		return false
	}
	return c.out.send(outMessage{buf: buf}, outboxStream)
}

func (c *Conn) addStream(h Header, mode StreamMode, holes bool) (*Stream, error) {
	key := streamKey{h.Program, h.Procedure, h.Serial}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.streams == nil:
		return nil, rpcError("connection is closed")
	case len(c.streams) >= streamsAtOnce:
		return nil, virterr.NewFrom(virterr.FromStreams, virterr.OperationFailed, "connection has %d open streams, the most it may have", len(c.streams))
	case c.streams[key] != nil:
		return nil, rpcError("serial %d is in use by another stream", h.Serial)
	}
	s := newStream(c, h, mode, holes)
	c.streams[key] = s
	return s, nil
}

func (c *Conn) findStream(h Header) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[streamKey{h.Program, h.Procedure, h.Serial}]
}

// dropStream forgets a stream: later packets for it are ignored.
func (c *Conn) dropStream(s *Stream) {
	c.mu.Lock()
	delete(c.streams, streamKey{s.header.Program, s.header.Procedure, s.header.Serial})
	c.mu.Unlock()
	s.cancel()
}

// errStopping is what streams end with that the daemon cannot serve on.
var errStopping = virterr.NewFrom(virterr.FromStreams, virterr.OperationAborted, "the daemon is stopping")

// refuseStreams ends every stream with an error for its client.
func (c *Conn) refuseStreams(err error) {
	c.mu.Lock()
	streams := c.streams
	c.streams = nil
	c.mu.Unlock()
	for _, s := range streams {
		s.refuse(err)
	}
}

func (c *Conn) abortStreams() {
	c.mu.Lock()
	streams := c.streams
	c.streams = nil
	c.mu.Unlock()
	for _, s := range streams {
		s.abort(ErrStreamAborted)
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
