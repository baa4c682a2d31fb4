package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"
)

// Encoded states are the kernel's own structures, one after the other, each behind its size: they are ABI, so they never
// change their layout. The parts come in a fixed order and an older build refuses more of them than it knows. The xsave
// area, part xsavePart, has the size that the host gave it.

// bytesOf returns the memory of a structure of the ABI, which has no pointers.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

func (s *State) parts() [][]byte {
	return [][]byte{bytesOf(&s.Regs), bytesOf(&s.SRegs), s.XSave, bytesOf(&s.XCRs), bytesOf(&s.LAPIC),
		bytesOf(&s.DebugRegs), bytesOf(&s.Events), bytesOf(&s.MPState)}
}

const xsavePart = 2

// Encode returns the state in a form that Decode of this and later builds reads.
func (s *State) Encode() []byte {
	var out []byte
	for _, p := range s.parts() {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(len(s.MSRs)))
	for i := range s.MSRs {
		out = append(out, bytesOf(&s.MSRs[i])...)
	}
	return out
}

// Decode sets the state to what Encode returned. The kernel checks what it is given when the state is set.
func (s *State) Decode(b []byte) error {
	for i, p := range s.parts() {
		if i == xsavePart {
			if len(b) < 4 {
				return errors.New("a vCPU's state has no xsave area")
			}
			n := binary.LittleEndian.Uint32(b)
			if n < xsaveSize || n > maxXSave {
				return fmt.Errorf("%d bytes are not the xsave area of a vCPU", n)
			}
			s.XSave = make(XSave, n)
			p = s.XSave
		}
		if len(b) < 4+len(p) || binary.LittleEndian.Uint32(b) != uint32(len(p)) {
			return fmt.Errorf("part %d of a vCPU's state does not have the %d bytes that it should", i, len(p))
		}
		copy(p, b[4:])
		b = b[4+len(p):]
	}
	const size = int(unsafe.Sizeof(MSR{}))
	if len(b) < 4 {
		return errors.New("a vCPU's state has no MSRs")
	}
	n := int(binary.LittleEndian.Uint32(b))
	if b = b[4:]; n > 4*maxMSRs || len(b) != n*size {
		return fmt.Errorf("%d MSRs in %d bytes of a vCPU's state", n, len(b))
	}
	s.MSRs = make([]MSR, n)
	for i := range s.MSRs {
		copy(bytesOf(&s.MSRs[i]), b[i*size:])
	}
	return nil
}

// Encode returns the interrupt controller's state.
func (c *IRQChip) Encode() []byte { return append([]byte(nil), bytesOf(c)...) }

// Decode sets what Encode returned of a controller of the same ID.
func (c *IRQChip) Decode(b []byte) error {
	var in IRQChip
	if copy(bytesOf(&in), b) != len(b) || len(b) != int(unsafe.Sizeof(in)) || in.ID != c.ID {
		return fmt.Errorf("%d bytes of controller %d are not the state of interrupt controller %d", len(b), in.ID, c.ID)
	}
	*c = in
	return nil
}

// Encode returns the interval timer's state.
func (p *PIT) Encode() []byte { return append([]byte(nil), bytesOf(p)...) }

// Decode sets what Encode returned.
func (p *PIT) Decode(b []byte) error {
	if len(b) != int(unsafe.Sizeof(*p)) {
		return fmt.Errorf("%d bytes are not the state of an interval timer", len(b))
	}
	copy(bytesOf(p), b)
	return nil
}
