package saveimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Errors of Open and Rewrite, wrapped.
var (
	// ErrMagic: the file is no image of ours.
	ErrMagic = errors.New("image magic is incorrect")
	// ErrIncomplete: it was not finished, or its guest went on.
	ErrIncomplete = errors.New("save image is incomplete")
	// ErrDamaged: it was ours.
	ErrDamaged = errors.New("save image is damaged")
	// ErrTooLarge: a new document does not fit.
	ErrTooLarge = errors.New("new xml too large to fit in file")
)

const (
	partial  = "virtd-save-part\x00"
	complete = "virtd-save-done\x00"
	version  = 1

	headSize    = 56
	firstSlot   = 4096
	slotAlign   = 4096
	leastSlot   = 64 << 10
	maxSlot     = 16 << 20 // twice what the largest document needs, as it has room to grow
	flagRunning = 1
)

// Header is what an image says about its domain.
type Header struct {
	XML     string // domain.Definition.Saved
	Running bool   // the guest runs after a restore, unless the caller says otherwise
}

// head is the first sector.
type head struct {
	complete bool
	running  bool
	slot     uint32
	slotSize uint64
	length   uint64
	crc      uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (h *head) encode() []byte {
	b := make([]byte, 0, headSize)
	if h.complete {
		b = append(b, complete...)
	} else {
		b = append(b, partial...)
	}
	le := binary.LittleEndian
	b = le.AppendUint32(b, version)
	flags := uint32(0)
	if h.running {
		flags = flagRunning
	}
	b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, flags), h.slot), 0)
	b = le.AppendUint64(le.AppendUint64(b, h.slotSize), h.length)
	b = le.AppendUint32(b, h.crc)
	return le.AppendUint32(b, crc32.Checksum(b[16:], castagnoli))
}

func (h *head) textAt() int64  { return firstSlot + int64(h.slot)*int64(h.slotSize) }
func (h *head) stateAt() int64 { return firstSlot + 2*int64(h.slotSize) }

// decode reads and checks a head. Nothing in it is larger than its limit afterwards.
func decode(r io.ReaderAt) (*head, error) {
	var b [headSize]byte
	if n, err := r.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	} else if n < headSize {
		return nil, fmt.Errorf("it has %d bytes: %w", n, ErrMagic)
	}
	h := &head{}
	switch string(b[:16]) {
	case complete:
		h.complete = true
	case partial:
		return nil, ErrIncomplete
	default:
		return nil, ErrMagic
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[16:]); v != version {
		return nil, fmt.Errorf("version %d of a save image, this build reads %d: %w", v, version, ErrMagic)
	}
	if le.Uint32(b[52:]) != crc32.Checksum(b[16:52], castagnoli) {
		return nil, fmt.Errorf("the checksum of its head is wrong: %w", ErrDamaged)
	}
	h.running = le.Uint32(b[20:])&flagRunning != 0
	h.slot, h.slotSize, h.length, h.crc = le.Uint32(b[24:]), le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint32(b[48:])
	if h.slot > 1 || h.slotSize > maxSlot || h.slotSize%slotAlign != 0 || h.length > h.slotSize {
		return nil, fmt.Errorf("a document of %d bytes in slot %d of %d: %w", h.length, h.slot, h.slotSize, ErrDamaged)
	}
	return h, nil
}

// text reads the document.
func (h *head) text(r io.ReaderAt) (string, error) {
	b := make([]byte, h.length)
	if n, err := r.ReadAt(b, h.textAt()); n < len(b) {
		return "", fmt.Errorf("its document is cut off (%v): %w", err, ErrDamaged)
	}
	if crc32.Checksum(b, castagnoli) != h.crc {
		return "", fmt.Errorf("the checksum of its document is wrong: %w", ErrDamaged)
	}
	return string(b), nil
}

// setText puts a document into the slot that is not in use, and into the head.
func (h *head) setText(w io.WriterAt, text string) error {
	if uint64(len(text)) > h.slotSize {
		return ErrTooLarge
	}
	h.slot ^= 1
	h.length, h.crc = uint64(len(text)), crc32.Checksum([]byte(text), castagnoli)
	_, err := w.WriteAt([]byte(text), h.textAt())
	return err
}
