package virtio

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// packedParts is the host's view of the three parts of a packed virtqueue (virtio 1.2, 2.8). The slices alias guest memory
// and are exactly as long as the layout says.
type packedParts struct {
	desc   []byte // size descriptors of addr 64, len 32, id 16 and flags 16 bits (2.8.13); written by both
	driver []byte // event suppression of the driver: offset and wrap counter 16, flags 16 bits (2.8.14); read-only
	device []byte // event suppression of the device; written by it
}

// eventSize is the size of struct pvirtq_event_suppress, and eventAlign its alignment (virtio 1.2, 2.8.10.1).
const eventSize, eventAlign = 4, 4

// word is the aligned 32-bit word at off of b.
func word(b []byte, off int) *uint32 { return (*uint32)(unsafe.Pointer(&b[off : off+4][0])) }

// idFlags reads identifier and flags of a descriptor with acquire order: the rest of it may be read afterwards.
func (p *packedParts) idFlags(slot uint16) (id, flags uint16) {
	w := atomic.LoadUint32(word(p.desc, int(slot)*descSize+12))
	return uint16(w), uint16(w >> 16)
}

// descriptor copies the address and length of a descriptor of which the flags were read. The copy is what is validated
// and used: the driver may change the original at any time.
func (p *packedParts) descriptor(slot, flags uint16) descriptor {
	d := &p.desc[int(slot)*descSize : int(slot)*descSize+descSize][0]
	return descriptor{addr: *(*uint64)(unsafe.Pointer(d)), len: *(*uint32)(unsafe.Add(unsafe.Pointer(d), 8)), flags: flags}
}

// putLen writes the length of a used descriptor.
func (p *packedParts) putLen(slot uint16, n uint32) { *word(p.desc, int(slot)*descSize+8) = n }

// putIDFlags writes identifier and flags of a used descriptor in one store, which is a full barrier.
func (p *packedParts) putIDFlags(slot uint16, w uint32) {
	atomic.StoreUint32(word(p.desc, int(slot)*descSize+12), w)
}

// driverEvent reads the driver's event suppression structure.
func (p *packedParts) driverEvent() uint32 { return atomic.LoadUint32(word(p.driver, 0)) }

// putDeviceEvent writes the device's event suppression structure in one store, which is a full barrier.
func (p *packedParts) putDeviceEvent(w uint32) { atomic.StoreUint32(word(p.device, 0), w) }

// parsePackedDescriptor reads a descriptor of an indirect table from its copy.
func parsePackedDescriptor(raw *[descSize]byte) descriptor {
	return descriptor{
		addr:  binary.LittleEndian.Uint64(raw[0:]),
		len:   binary.LittleEndian.Uint32(raw[8:]),
		flags: binary.LittleEndian.Uint16(raw[14:]),
	}
}
