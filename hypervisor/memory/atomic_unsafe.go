package memory

import (
	"sync/atomic"
	"unsafe"
)

// word returns the aligned 32-bit word at gpa, or nil when gpa is not 4-byte aligned RAM. Regions are mapped at page
// boundaries, so guest alignment is host alignment.
func (m *Memory) word(gpa uint64) *uint32 {
	r := m.find(gpa)
	if r == nil || gpa%4 != 0 {
		return nil
	}
	return (*uint32)(unsafe.Pointer(&r.Host[gpa-r.GPA]))
}

// LoadUint32 reads the little-endian word at the 4-byte aligned gpa with sequential consistency. Ring indexes are read
// with it: avail and used rings start with a 16-bit pair that shares a word (virtio 1.2, 2.7.6 and 2.7.8).
func (m *Memory) LoadUint32(gpa uint64) (uint32, error) {
	p := m.word(gpa)
	if p == nil {
		return 0, rangeError(gpa, 4)
	}
	return atomic.LoadUint32(p), nil
}

// StoreUint32 writes the little-endian word at the 4-byte aligned gpa with sequential consistency and marks it dirty.
func (m *Memory) StoreUint32(gpa uint64, v uint32) error {
	p := m.word(gpa)
	if p == nil {
		return rangeError(gpa, 4)
	}
	atomic.StoreUint32(p, v)
	m.MarkDirty(gpa, 4)
	return nil
}

// Word returns the 4-byte aligned word at gpa for repeated atomic access, so that a queue looks its ring up once. The
// same lifetime rule as for Slice holds; writers call MarkDirty.
func (m *Memory) Word(gpa uint64) (*uint32, error) {
	if p := m.word(gpa); p != nil {
		return p, nil
	}
	return nil, rangeError(gpa, 4)
}
