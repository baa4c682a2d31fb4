package pci

import "encoding/binary"

const (
	conventionalSize = 256  // PCI 3.0, 6.1
	expressSize      = 4096 // PCIe 4.0, 7.2
)

// space is the bytes of one function's configuration space and what a guest write does to each bit. It grows from 256
// to 4096 bytes when extended capabilities need it; until then the rest of an express function reads as zero. The
// function's lock guards it.
type space struct {
	data     []byte
	writable []byte // bits that a write stores
	w1c      []byte // bits that writing one clears
	volatile []byte // bits the device changes by itself: part of a saved state though not writable
	express  bool
}

func newSpace() space {
	var s space
	s.grow(conventionalSize)
	return s
}

func (s *space) grow(n int) {
	for _, b := range []*[]byte{&s.data, &s.writable, &s.w1c, &s.volatile} {
		bigger := make([]byte, n)
		copy(bigger, *b)
		*b = bigger
	}
}

// read fills p from offset. Beyond the space conventional functions answer all ones, express ones zero.
func (s *space) read(offset int, p []byte) {
	for i := range p {
		switch at := offset + i; {
		case at >= 0 && at < len(s.data):
			p[i] = s.data[at]
		case s.express && at < expressSize:
			p[i] = 0
		default:
			p[i] = 0xff
		}
	}
}

// write applies a guest write byte by byte and reports whether any byte changed. Every width and alignment is the sum
// of its bytes, so a straddling access cannot reach bits that a narrow one could not.
func (s *space) write(offset int, p []byte) bool {
	changed := false
	for i, v := range p {
		at := offset + i
		if at < 0 || at >= len(s.data) {
			continue
		}
		old := s.data[at]
		next := old&^s.writable[at] | v&s.writable[at]
		next &^= v & s.w1c[at]
		s.data[at] = next
		changed = changed || next != old
	}
	return changed
}

func (s *space) u16(at int) uint16 { return binary.LittleEndian.Uint16(s.data[at:]) }
func (s *space) u32(at int) uint32 { return binary.LittleEndian.Uint32(s.data[at:]) }

func (s *space) put16(at int, v uint16) { binary.LittleEndian.PutUint16(s.data[at:], v) }
func (s *space) put32(at int, v uint32) { binary.LittleEndian.PutUint32(s.data[at:], v) }
