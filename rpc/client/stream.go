package client

import (
	"context"
	"io"
	"sync"

	"virtd/rpc"
)

// chunk is how much one packet carries, in bytes: what libvirt's own clients send.
const chunk = 262120

// Stream is the flow of bytes that a call opened, such as DOMAIN_OPEN_CONSOLE. One goroutine may read while another writes.
type Stream struct {
	client *Client
	header rpc.Header

	mu      sync.Mutex
	changed sync.Cond
	data    []byte
	eof     bool  // the daemon has no more data
	over    bool  // the daemon confirmed our end
	err     error // the daemon's error, or the connection's
}

// OpenStream makes a call that opens a stream and returns the stream once the daemon agreed.
func (c *Client) OpenStream(ctx context.Context, program, procedure uint32, args, ret any) (*Stream, error) {
	s := &Stream{client: c}
	s.changed.L = &s.mu
	serial, replies, err := c.begin(s, program, procedure, args)
	if err != nil {
		return nil, err
	}
	if err := c.await(ctx, serial, replies, ret); err != nil {
		c.forget(serial)
		return nil, err
	}
	return s, nil
}

// Read returns data from the daemon, and io.EOF after its end.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.data) == 0 && !s.eof && !s.over && s.err == nil {
		s.changed.Wait()
	}
	if len(s.data) > 0 {
		n := copy(p, s.data)
		s.data = s.data[n:]
		return n, nil
	}
	if s.err != nil {
		return 0, s.err
	}
	return 0, io.EOF
}

// Write sends data to the daemon.
func (s *Stream) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		s.mu.Lock()
		err, over := s.err, s.over
		s.mu.Unlock()
		if err != nil {
			return done, err
		}
		if over {
			return done, io.ErrClosedPipe
		}
		n := min(chunk, len(p)-done)
		if err := s.send(rpc.StatusContinue, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// Finish says that all is sent, or that no more is wanted, and waits until the daemon is done with the data: what was
// uploaded is then where it belongs.
func (s *Stream) Finish() error { return s.leave(rpc.StatusOK) }

// Abort ends the stream without success, as a console's escape key does.
func (s *Stream) Abort() error { return s.leave(rpc.StatusError) }

func (s *Stream) leave(status rpc.Status) error {
	defer s.client.forget(s.header.Serial)
	if err := s.send(status, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over && s.err == nil {
		s.data = nil
		s.changed.Wait()
	}
	return s.err
}

func (s *Stream) send(status rpc.Status, data []byte) error {
	h := s.header
	h.Type, h.Status = rpc.TypeStream, status
	return s.client.send(h, nil, data)
}

// packet takes what the daemon sent.
func (s *Stream) packet(h rpc.Header, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch h.Status {
	case rpc.StatusContinue:
		if len(body) == 0 {
			s.eof = true
		}
		s.data = append(s.data, body...)
	case rpc.StatusOK:
		s.over = true
	default:
		if s.err == nil {
			s.err = rpc.DecodeError(body)
		}
	}
	s.changed.Broadcast()
}

// end notes that the connection is gone.
func (s *Stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
}
