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
	rest         int    // bytes at sent that are the rest of a frame which is written in part

	dead bool
	why  error // that the far end does not keep to the framing; nil: it went
}

// Sizes of a stream's buffers, in bytes. Each holds two of the longest frames and more.
const (
	streamPrefix = 4
	streamBuffer = 256 << 10
)

// minFrame is the shortest frame that has an Ethernet header.
const minFrame = 14

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

// put queues the frame of a chain, without the header bytes before it. room was true.
func (s *stream) put(c *virtio.Chain, header uint64) (n int) {
	n = int(c.ReadLen - header)
	binary.BigEndian.PutUint32(s.out[s.queued:], uint32(n))
	at := s.queued + streamPrefix
	if got := c.CopyIn(s.out[at:at+n], header); got != n {
		return 0
	}
	s.queued = at + n
	return n
}

// flush writes what is queued, as far as the socket takes it, in pieces that end with a frame.
func (s *stream) flush() {
	for s.sent < s.queued && !s.dead {
		n, e := send(s.fd, s.out[s.sent:s.piece()])
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			s.queued = copy(s.out, s.out[s.sent:s.queued])
			s.sent = 0
			return
		case e != 0:
			s.dead = true
			n = 0
		}
		s.advance(n)
	}
	s.sent, s.queued, s.rest = 0, 0, 0
}

// onePiece is how many bytes the kernel passes on a unix socket in one piece at least (UNIX_SKB_FRAGS_SZ): the far end sees
// all of them or none.
const onePiece = 32 << 10

// piece returns the end of what is written next: the rest of a frame, or whole frames that arrive in one piece. passt, up to
// versions of 2023 at least, takes what it reads for whole but for the end of the last frame: it loses the place when a
// length is in two parts.
func (s *stream) piece() int {
	if s.rest > 0 {
		return s.sent + s.rest
	}
	end := s.sent
	for end < s.queued {
		next := end + streamPrefix + int(binary.BigEndian.Uint32(s.out[end:]))
		if next-s.sent > onePiece && end > s.sent {
			break
		}
		end = next
	}
	return end
}

// advance notes that n bytes were written, and how much of a frame is left when they end within one.
func (s *stream) advance(n int) {
	to := s.sent + n
	at := s.sent + s.rest // where a frame begins, or began
	for at < to {
		at += streamPrefix + int(binary.BigEndian.Uint32(s.out[at:]))
	}
	s.sent, s.rest = to, at-to
}
