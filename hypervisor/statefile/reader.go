package statefile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Record is a section or some pages.
type Record struct {
	Section string // "" for pages
	GPA     uint64 // of pages
	Data    []byte // state, or whole pages; valid until the next call of Next
}

// Reader reads one stream. It is not safe for concurrent use. It reads no byte beyond the end record.
type Reader struct {
	r        io.Reader
	buf      []byte
	number   uint64
	sections uint64
	pages    uint64
	ended    bool
}

// NewReader reads the beginning of a stream.
func NewReader(r io.Reader) (*Reader, error) {
	var head [preambleSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, short(err, "at its beginning")
	}
	if string(head[:8]) != magic {
		return nil, fmt.Errorf("it begins with % x: %w", head[:8], ErrFormat)
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v < 1 || v > Version {
		return nil, fmt.Errorf("version %d, this engine reads 1 to %d: %w", v, Version, ErrFormat)
	}
	return &Reader{r: r}, nil
}

// short gives the end of the file its meaning here.
func short(err error, where string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: %w", where, ErrTruncated)
	}
	return fmt.Errorf("read the saved state: %w", err)
}

// Next returns the next record, or io.EOF after a valid end.
func (r *Reader) Next() (Record, error) {
	if r.ended {
		return Record{}, io.EOF
	}
	kind, payload, err := r.record()
	if err != nil {
		return Record{}, err
	}
	switch kind {
	case kindSection:
		return r.section(payload)
	case kindPages:
		n := len(payload) - addressSize
		if n <= 0 || n%PageSize != 0 || n > MaxPages*PageSize {
			return Record{}, r.corrupt("%d bytes of pages", n)
		}
		gpa := binary.LittleEndian.Uint64(payload)
		if gpa%PageSize != 0 {
			return Record{}, r.corrupt("pages at %#x", gpa)
		}
		r.pages += uint64(n / PageSize)
		return Record{GPA: gpa, Data: payload[addressSize:]}, nil
	case kindEnd:
		if len(payload) != endSize || binary.LittleEndian.Uint64(payload) != r.sections || binary.LittleEndian.Uint64(payload[8:]) != r.pages {
			return Record{}, r.corrupt("the end does not fit what came")
		}
		r.ended = true
		return Record{}, io.EOF
	}
	return Record{}, r.corrupt("a record of kind %d", kind)
}

// record reads one record and checks it.
func (r *Reader) record() (kind uint32, payload []byte, err error) {
	var head [recordHead]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, short(err, fmt.Sprintf("after record %d", r.number))
	}
	kind = binary.LittleEndian.Uint32(head[:])
	n := binary.LittleEndian.Uint32(head[4:])
	if n > maxPayload {
		return 0, nil, r.corrupt("a record of %d bytes", n)
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, max(int(n), addressSize+MaxPages*PageSize))
	}
	payload = r.buf[:n]
	if _, err := io.ReadFull(r.r, payload); err != nil {
		return 0, nil, short(err, fmt.Sprintf("in record %d", r.number))
	}
	if checksum(r.number, kind, payload) != binary.LittleEndian.Uint32(head[8:]) {
		return 0, nil, r.corrupt("the checksum is wrong")
	}
	r.number++
	return kind, payload, nil
}

func (r *Reader) section(payload []byte) (Record, error) {
	if len(payload) < 2 {
		return Record{}, r.corrupt("a section of %d bytes", len(payload))
	}
	n := int(binary.LittleEndian.Uint16(payload))
	payload = payload[2:]
	if n == 0 || n > maxName || n > len(payload) || len(payload)-n > MaxSection || r.sections == MaxSections || r.pages > 0 {
		return Record{}, r.corrupt("a section of %d bytes with a name of %d, number %d", len(payload), n, r.sections+1)
	}
	r.sections++
	return Record{Section: string(payload[:n]), Data: payload[n:]}, nil
}

func (r *Reader) corrupt(format string, args ...any) error {
	return fmt.Errorf("record %d: %s: %w", r.number, fmt.Sprintf(format, args...), ErrCorrupt)
}
