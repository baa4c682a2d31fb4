package statefile

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Writer writes one stream. It is not safe for concurrent use. After an error the stream is worth nothing.
type Writer struct {
	w        io.Writer
	buf      []byte // of the record being made, reused
	number   uint64
	sections uint64
	pages    uint64
}

// NewWriter begins a stream on w. Each record is one Write.
func NewWriter(w io.Writer) (*Writer, error) {
	head := make([]byte, preambleSize)
	copy(head, magic)
	binary.LittleEndian.PutUint32(head[8:], Version)
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	return &Writer{w: w, buf: make([]byte, 0, recordHead+addressSize+MaxPages*PageSize)}, nil
}

// Section writes the state of one part. Sections come before Pages.
func (w *Writer) Section(name string, state []byte) error {
	switch {
	case w.pages > 0:
		return fmt.Errorf("section %q after pages", name)
	case len(name) == 0 || len(name) > maxName || len(state) > MaxSection || w.sections == MaxSections:
		return fmt.Errorf("section %q of %d bytes, number %d: more than a stream takes", name, len(state), w.sections+1)
	}
	w.begin(kindSection)
	w.buf = binary.LittleEndian.AppendUint16(w.buf, uint16(len(name)))
	w.buf = append(append(w.buf, name...), state...)
	w.sections++
	return w.flush()
}

// Pages writes RAM at gpa: 1 to MaxPages whole pages, which are copied before anything is computed from them.
func (w *Writer) Pages(gpa uint64, data []byte) error {
	if len(data) == 0 || len(data) > MaxPages*PageSize || len(data)%PageSize != 0 || gpa%PageSize != 0 {
		return fmt.Errorf("%d bytes at %#x are not whole pages", len(data), gpa)
	}
	w.begin(kindPages)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, gpa)
	w.buf = append(w.buf, data...)
	w.pages += uint64(len(data) / PageSize)
	return w.flush()
}

// End completes the stream.
func (w *Writer) End() error {
	w.begin(kindEnd)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, w.sections)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, w.pages)
	return w.flush()
}

func (w *Writer) begin(kind uint32) {
	w.buf = binary.LittleEndian.AppendUint32(w.buf[:0], kind)
	w.buf = append(w.buf, 0, 0, 0, 0, 0, 0, 0, 0)
}

func (w *Writer) flush() error {
	payload := w.buf[recordHead:]
	binary.LittleEndian.PutUint32(w.buf[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(w.buf[8:], checksum(w.number, binary.LittleEndian.Uint32(w.buf), payload))
	w.number++
	_, err := w.w.Write(w.buf)
	return err
}
