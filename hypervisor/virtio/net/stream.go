package net

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
)

// stream is the framing of packets on a connected stream socket, in place of a tap: each frame follows its length, 32 bits in
// network byte order, as QEMU's "-netdev stream" has it. There is no virtio header, so nothing is offloaded. The far end is a
// process that parses what guests and the world send; what comes from it is checked like what comes from a guest.
//
// Frames that arrive are read many at a time into one buffer and copied from there to the guest; frames that leave gather in
// another and are written together. One worker uses a stream at a time.
type stream struct {
	fd int

	in        []byte // bytes read
	from, end int    // in[from:end] is not taken yet

	out          []byte // frames to write
	sent, queued int    // out[sent:queued] is not written yet

	dead bool
	why  error // that the far end does not keep to the framing; nil: it went
}

// Sizes of a stream's buffers, in bytes. Each holds two of the longest frames and more.
const (
	streamPrefix = 4
	streamBuffer = 256 << 10
)

// maxFrame is the longest frame, and minFrame the shortest that has an Ethernet header.
const (
	maxFrame = maxPacket - headerSize
	minFrame = 14
)

var errFraming = errors.New("a frame of impossible length came from the process behind the interface")

func newStream(fd int) *stream {
	return &stream{fd: fd, in: make([]byte, streamBuffer), out: make([]byte, streamBuffer)}
}

// next returns the next frame that arrived, which stays as it is until the following call. EAGAIN: none so far; EBADFD: the
// far end is gone, or speaks nonsense.
func (s *stream) next() ([]byte, unix.Errno) {
	for {
		if s.dead {
			return nil, unix.EBADFD
		}
		if s.end-s.from >= streamPrefix {
			n := uint64(binary.BigEndian.Uint32(s.in[s.from:]))
			if n > maxFrame {
				s.dead, s.why = true, errFraming
				return nil, unix.EBADFD
			}
			if whole := streamPrefix + int(n); s.end-s.from >= whole {
				frame := s.in[s.from+streamPrefix : s.from+whole]
				s.from += whole
				return frame, 0
			}
		}
		if e := s.read(); e != 0 {
			return nil, e
		}
	}
}

// read takes what the socket has, behind what is there.
func (s *stream) read() unix.Errno {
	if s.from == s.end {
		s.from, s.end = 0, 0
	} else if len(s.in)-s.end < streamPrefix+maxFrame { // the frame that began may not fit
		s.end = copy(s.in, s.in[s.from:s.end])
		s.from = 0
	}
	for {
		n, e := recv(s.fd, s.in[s.end:])
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			return e
		case e != 0 || n == 0:
			s.dead = true
			return unix.EBADFD
		}
		s.end += n
		return 0
	}
}

// room makes sure that one more frame fits, and reports false when the far end does not keep up: then there is news when the
// socket takes bytes again.
func (s *stream) room() bool {
	if s.dead {
		return true // frames are dropped
	}
	if len(s.out)-s.queued >= streamPrefix+maxFrame {
		return true
	}
	s.flush()
	return s.dead || len(s.out)-s.queued >= streamPrefix+maxFrame
}

// put queues the frame of a chain, without its virtio header. room was true.
func (s *stream) put(c *virtio.Chain) (n int) {
	n = int(c.ReadLen) - headerSize
	binary.BigEndian.PutUint32(s.out[s.queued:], uint32(n))
	at := s.queued + streamPrefix
	if got := c.CopyIn(s.out[at:at+n], headerSize); got != n {
		return 0
	}
	s.queued = at + n
	return n
}

// flush writes what is queued, as far as the socket takes it.
func (s *stream) flush() {
	for s.sent < s.queued && !s.dead {
		n, e := send(s.fd, s.out[s.sent:s.queued])
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			s.queued = copy(s.out, s.out[s.sent:s.queued])
			s.sent = 0
			return
		case e != 0:
			s.dead = true
		}
		s.sent += n
	}
	s.sent, s.queued = 0, 0
}
