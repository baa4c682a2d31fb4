package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// readBuffer is how many bytes are read ahead; most messages are far smaller.
const readBuffer = 16 << 10

// keepBody is the largest body buffer that is kept for the next message.
const keepBody = 256 << 10

// ErrFrame is the reason when what arrived cannot be a message. The connection is useless afterwards.
var ErrFrame = errors.New("malformed message")

// FrameReader splits a connection into messages. It collects file descriptors that arrive on a unix socket. It is used by
// one goroutine at a time.
type FrameReader struct {
	conn    net.Conn
	unix    *socket // conn, when descriptors can arrive
	max     int     // longest message
	buf     []byte
	r, w    int
	oob     []byte
	fds     []*os.File // arrived, not yet claimed by a message
	bodyBuf []byte
}

// NewFrameReader returns a reader of the messages on conn, none longer than max bytes (0: the protocol's limit).
func NewFrameReader(conn net.Conn, max int) *FrameReader {
	if max <= 0 || max > maxMessage {
		max = maxMessage
	}
	f := &FrameReader{conn: conn, max: max, buf: make([]byte, readBuffer)}
	if f.unix = newSocket(conn); f.unix != nil {
		f.oob = make([]byte, syscall.CmsgSpace(maxFDs*4))
	}
	return f
}

// expect says whether the next message is likely to come within a moment, so that a thread shall wait for it.
func (f *FrameReader) expect(soon bool) {
	if f.unix != nil {
		f.unix.linger = soon
	}
}

// more reports whether something has arrived already behind the message that Next returned: the peer does not wait for answers.
func (f *FrameReader) more() bool { return f.r < f.w }

// Next returns the next message. The body is valid until the following call. The files are the message's own and the
// caller's to close. The error is io.EOF only between messages.
func (f *FrameReader) Next() (Header, []byte, []*os.File, error) {
	if cap(f.bodyBuf) > keepBody {
		f.bodyBuf = nil // not held while the peer is silent
	}
	var prefix [minMessage]byte
	if err := f.full(prefix[:]); err != nil {
		return Header{}, nil, nil, err
	}
	size := binary.BigEndian.Uint32(prefix[:])
	if size < minMessage || uint64(size) > uint64(f.max) {
		return Header{}, nil, nil, fmt.Errorf("%w: length %d is not in %d..%d", ErrFrame, size, minMessage, f.max)
	}
	h := parseHeader(prefix[lenSize:])
	body, err := f.body(int(size) - minMessage)
	if err != nil {
		return h, nil, nil, noEOF(err)
	}
	if h.Type != TypeCallWithFDs && h.Type != TypeReplyWithFDs {
		if f.r == f.w {
			f.dropFDs() // nobody asked for them; with bytes still unread they may belong to the next message
		}
		return h, body, nil, nil
	}
	files, body, err := f.files(body)
	return h, body, files, err
}

// body reads n bytes, growing the buffer only as data arrives: a length alone costs the sender nothing.
func (f *FrameReader) body(n int) ([]byte, error) {
	b := f.bodyBuf[:0]
	for len(b) < n {
		step := min(n-len(b), max(len(b), readBuffer))
		if cap(b)-len(b) < step {
			grown := make([]byte, len(b), len(b)+step)
			copy(grown, b)
			b = grown
		}
		if err := f.full(b[len(b) : len(b)+step]); err != nil {
			return nil, err
		}
		b = b[:len(b)+step]
	}
	f.bodyBuf = b
	return b, nil
}

// files reads the count that begins the body and claims as many descriptors; each came with one byte of its own.
func (f *FrameReader) files(body []byte) ([]*os.File, []byte, error) {
	if len(body) < 4 {
		return nil, nil, fmt.Errorf("%w: no room for the number of file descriptors", ErrFrame)
	}
	n := binary.BigEndian.Uint32(body)
	if n > maxFDs {
		return nil, nil, fmt.Errorf("%w: %d file descriptors exceed the limit of %d", ErrFrame, n, maxFDs)
	}
	var dummy [maxFDs]byte
	if err := f.full(dummy[:n]); err != nil {
		return nil, nil, noEOF(err)
	}
	if len(f.fds) != int(n) {
		f.dropFDs()
		return nil, nil, fmt.Errorf("%w: %d file descriptors announced, %d arrived", ErrFrame, n, len(f.fds))
	}
	files := f.fds
	f.fds = nil
	return files, body[4:], nil
}

// full fills p. It returns io.EOF when the connection ended before the first byte.
func (f *FrameReader) full(p []byte) error {
	for done := 0; done < len(p); {
		if f.r < f.w {
			n := copy(p[done:], f.buf[f.r:f.w])
			f.r += n
			done += n
			continue
		}
		if err := f.fill(); err != nil {
			if done > 0 {
				return noEOF(err)
			}
			return err
		}
	}
	return nil
}

func (f *FrameReader) fill() error {
	f.r, f.w = 0, 0
	if f.unix == nil {
		n, err := f.conn.Read(f.buf)
		f.w = n
		if n > 0 {
			return nil
		}
		return err
	}
	n, oobn, err := f.unix.recv(f.buf, f.oob)
	if oobn > 0 {
		f.takeFDs(f.oob[:oobn])
	}
	f.w = n
	return err
}

func (f *FrameReader) takeFDs(oob []byte) {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range msgs {
		fds, err := syscall.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if len(f.fds) >= maxFDs {
				syscall.Close(fd)
				continue
			}
			f.fds = append(f.fds, os.NewFile(uintptr(fd), "received"))
		}
	}
}

func (f *FrameReader) dropFDs() {
	for _, file := range f.fds {
		file.Close()
	}
	f.fds = nil
}

// Close closes descriptors that no message claimed. It leaves the connection open.
func (f *FrameReader) Close() { f.dropFDs() }

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
