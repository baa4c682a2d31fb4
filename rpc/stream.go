package rpc

import (
	"context"
	"errors"
	"io"
	"sync"

	"virtd/virterr"
)

// StreamMode says which way the data of a stream flows.
type StreamMode int

// The directions, as the server sees them.
const (
	StreamDownload StreamMode = iota // server to client
	StreamUpload                     // client to server
	StreamBoth                       // a console
)

const (
	streamWindow  = 8 << 20 // bytes from the client that wait to be read; the connection's reader waits beyond that
	streamsAtOnce = 64      // open streams of one connection
)

// ErrStreamAborted is what a stream's Read and Write return after the client aborted it or left.
var ErrStreamAborted = errors.New("stream aborted by the client")

// Stream is a flow of bytes beside the calls of a connection. Read may be used by one goroutine while another uses Write.
type Stream struct {
	conn   *Conn
	header Header // of the call; packets carry the same program, procedure and serial
	mode   StreamMode
	holes  bool // both sides may send holes: runs of zero bytes by their length alone
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	changed  sync.Cond
	in       []piece
	inBytes  int
	finished bool  // the client sent its end (StatusOK)
	aborted  error // no more data in either direction
	eofSent  bool  // our fn is done; the client's end is awaited
}

// piece is one packet from the client: data, or a hole of that many bytes.
type piece struct {
	data []byte
	hole int64
}

// weight is what a piece counts in the window: a hole is small, but not nothing.
func (p piece) weight() int { return max(len(p.data), 64) }

func newStream(conn *Conn, h Header, mode StreamMode, holes bool) *Stream {
	s := &Stream{conn: conn, header: h, mode: mode, holes: holes}
	s.changed.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(conn.server.ctx)
	return s
}

// Context ends when the stream does.
func (s *Stream) Context() context.Context { return s.ctx }

// Read returns data from the client, io.EOF after its orderly end, ErrStreamAborted after an abort. A hole reads as zeros.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.awaitPiece(); err != nil {
		return 0, err
	}
	first := &s.in[0]
	if first.hole > 0 {
		n := int(min(int64(len(p)), first.hole))
		clear(p[:n])
		if first.hole -= int64(n); first.hole == 0 {
			s.dropPiece()
		}
		return n, nil
	}
	n := copy(p, first.data)
	if n == len(first.data) {
		s.dropPiece()
		return n, nil
	}
	before := first.weight()
	first.data = first.data[n:]
	s.inBytes -= before - first.weight()
	s.changed.Broadcast()
	return n, nil
}

// ReadHole takes a hole, if that comes next, and returns its length in bytes; 0 when data comes next. It waits for the
// client's next packet and returns what Read would at the end.
func (s *Stream) ReadHole() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.awaitPiece(); err != nil {
		return 0, err
	}
	hole := s.in[0].hole
	if hole > 0 {
		s.dropPiece()
	}
	return hole, nil
}

// awaitPiece waits until there is something to read, or the end. The caller holds s.mu.
func (s *Stream) awaitPiece() error {
	for len(s.in) == 0 && !s.finished && !s.eofSent && s.aborted == nil {
		s.changed.Wait()
	}
	switch {
	case s.aborted != nil:
		return s.aborted
	case len(s.in) == 0:
		return io.EOF
	}
	return nil
}

// dropPiece forgets the first piece and lets the client send more. The caller holds s.mu.
func (s *Stream) dropPiece() {
	s.inBytes -= s.in[0].weight()
	s.in[0] = piece{}
	s.in = s.in[1:]
	s.changed.Broadcast()
}

// Write sends data to the client and waits while the client is behind.
func (s *Stream) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		if err := s.writable(); err != nil {
			return done, err
		}
		n := min(len(p)-done, streamPayload)
		if !s.conn.sendStream(s.header, StatusContinue, p[done:done+n]) {
			return done, ErrStreamAborted
		}
		done += n
	}
	return len(p), nil
}

// WriteHole tells the client of n bytes that are zero, on a stream that may have holes.
func (s *Stream) WriteHole(n int64) error {
	if err := s.writable(); err != nil {
		return err
	}
	if !s.conn.sendHole(s.header, n) {
		return ErrStreamAborted
	}
	return nil
}

func (s *Stream) writable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted != nil {
		return s.aborted
	}
	if s.finished {
		return io.ErrClosedPipe
	}
	return nil
}

// run executes the server's side and ends the stream as its result says.
func (s *Stream) run(fn func(*Stream) error) {
	defer s.cancel()
	err := fn(s)
	s.mu.Lock()
	switch {
	case s.aborted != nil:
		s.mu.Unlock()
	case err != nil:
		s.mu.Unlock()
		s.conn.dropStream(s)
		s.conn.streamError(s.header, err)
	case s.finished:
		s.mu.Unlock()
		s.conn.dropStream(s)
		s.conn.sendStream(s.header, StatusOK, nil)
	default:
		s.eofSent = true
		s.in, s.inBytes = nil, 0
		s.changed.Broadcast()
		s.mu.Unlock()
		if s.mode != StreamUpload {
			s.conn.sendStream(s.header, StatusContinue, nil) // no data: the end
		}
	}
}

// packet takes what the client sent on the stream. It runs in the connection's reader, which it holds up while the stream's
// window is full.
func (s *Stream) packet(h Header, body []byte) {
	switch {
	case h.Type == TypeStreamHole:
		s.takeHole(h, body)
	case h.Status == StatusContinue && s.mode == StreamDownload && len(body) > 0:
		s.refuse(virterr.NewFrom(virterr.FromStreams, virterr.OperationInvalid, "the stream takes no data"))
	case h.Status == StatusContinue:
		s.take(body)
	case h.Status == StatusOK:
		s.finish()
	default:
		s.abort(ErrStreamAborted)
		s.conn.dropStream(s)
		s.conn.sendStream(s.header, StatusOK, nil)
	}
}

// take queues data. An empty packet carries nothing; the client's end is StatusOK.
func (s *Stream) take(body []byte) {
	if len(body) == 0 {
		return
	}
	s.queue(piece{data: append([]byte(nil), body...)})
}

// maxHole is the longest hole: no file is longer.
const maxHole = 1 << 62

// hole is libvirt's virNetStreamHole.
type hole struct {
	Length int64
	Flags  uint32
}

// takeHole queues a hole, where the stream may have any.
func (s *Stream) takeHole(h Header, body []byte) {
	var msg hole
	switch err := Unmarshal(body, &msg); {
	case !s.holes || s.mode == StreamDownload:
		s.refuse(virterr.NewFrom(virterr.FromStreams, virterr.OperationUnsupported, "holes are not supported on this stream"))
	case err != nil || h.Status != StatusContinue:
		s.refuse(rpcError("unable to decode a hole in a stream"))
	case msg.Length < 0 || msg.Length > maxHole || msg.Flags != 0:
		s.refuse(virterr.NewFrom(virterr.FromStreams, virterr.InvalidArg, "hole of %d bytes with flags 0x%x in a stream", msg.Length, msg.Flags))
	case msg.Length > 0:
		s.queue(piece{hole: msg.Length})
	}
}

// queue adds a piece, once there is room in the window.
func (s *Stream) queue(p piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.inBytes >= streamWindow && s.aborted == nil && !s.eofSent && !s.finished {
		s.changed.Wait()
	}
	if s.aborted != nil || s.eofSent || s.finished {
		return
	}
	s.in = append(s.in, p)
	s.inBytes += p.weight()
	s.changed.Broadcast()
}

// finish handles the client's orderly end: reads drain what is queued. When our side is done too the stream is over.
func (s *Stream) finish() {
	s.mu.Lock()
	s.finished = true
	over := s.eofSent
	s.changed.Broadcast()
	s.mu.Unlock()
	if over {
		s.conn.dropStream(s)
		s.conn.sendStream(s.header, StatusOK, nil)
	} else if s.mode != StreamUpload {
		s.cancel() // the client wants no more data
	}
}

// refuse aborts the stream because of the client's packet and tells it why.
func (s *Stream) refuse(err error) {
	s.abort(err)
	s.conn.dropStream(s)
	s.conn.streamError(s.header, err)
}

// abort ends both directions.
func (s *Stream) abort(err error) {
	s.mu.Lock()
	if s.aborted == nil {
		s.aborted = err
	}
	s.in, s.inBytes = nil, 0
	s.changed.Broadcast()
	s.mu.Unlock()
	s.cancel()
}
