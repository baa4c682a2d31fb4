package virtio

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// rings is the host's view of the three parts of a split virtqueue (virtio 1.2, 2.7). The slices alias guest memory and
// are exactly as long as the layout says, so an index error is caught by Go's bounds check and never reaches memory
// outside the ring.
type rings struct {
	desc  []byte // size descriptors of 16 bytes (2.7.5), read-only for the device
	avail []byte // flags, idx, ring[size], used_event; 16 bits each (2.7.6); written by the driver
	used  []byte // flags, idx, ring[size] of {id, len} 32 bits each, avail_event (2.7.8); written by the device
	fence uint32 // target of full barriers
}

// Offsets and sizes of the parts (virtio 1.2, 2.7).
const (
	descSize     = 16
	availRing    = 4
	usedRing     = 4
	usedElemSize = 8
)

// descriptor is struct virtq_desc (virtio 1.2, 2.7.5).
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// descriptor copies entry i of the table. The caller has checked i. The copy is what is validated and used: the driver
// may change the original at any time.
func (r *rings) descriptor(i uint16) descriptor {
	return *(*descriptor)(unsafe.Pointer(&r.desc[int(i)*descSize : int(i)*descSize+descSize][0]))
}

// load16 reads the 16-bit field at off with acquire order. It loads the aligned 32-bit word around it, because sync/atomic
// has no 16-bit operations; regions are whole pages, so that word is mapped.
func load16(b []byte, off int) uint16 {
	p := unsafe.Pointer(&b[off : off+2][0])
	shift := uintptr(p) & 2
	return uint16(atomic.LoadUint32((*uint32)(unsafe.Add(p, -int(shift)))) >> (shift * 8))
}

// availIdx reads the driver's index. Ring entries below it may be read afterwards.
func (r *rings) availIdx() uint16 { return load16(r.avail, 2) }

// availFlags reads the driver's flags.
func (r *rings) availFlags() uint16 { return load16(r.avail, 0) }

// usedEvent reads the index at which the driver wants its next interrupt (2.7.7).
func (r *rings) usedEvent() uint16 { return load16(r.avail, len(r.avail)-2) }

// availEntry reads slot i of the available ring.
func (r *rings) availEntry(i uint16) uint16 {
	return *(*uint16)(unsafe.Pointer(&r.avail[availRing+2*int(i) : availRing+2*int(i)+2][0]))
}

// putAvail writes slot i of the available ring, which is the driver's: for a slot that the driver has passed.
func (r *rings) putAvail(i, head uint16) {
	*(*uint16)(unsafe.Pointer(&r.avail[availRing+2*int(i) : availRing+2*int(i)+2][0])) = head
}

// usedEntry reads the chain's head in slot i of the used ring.
func (r *rings) usedEntry(i uint16) uint32 {
	return *(*uint32)(unsafe.Pointer(&r.used[usedRing+usedElemSize*int(i) : usedRing+usedElemSize*int(i)+usedElemSize][0]))
}

// putUsed writes slot i of the used ring. It becomes visible to the driver with setUsed.
func (r *rings) putUsed(i uint16, id, n uint32) {
	e := (*[2]uint32)(unsafe.Pointer(&r.used[usedRing+usedElemSize*int(i) : usedRing+usedElemSize*int(i)+usedElemSize][0]))
	e[0], e[1] = id, n
}

// setUsed publishes flags and index of the used ring in one store, which is a full barrier.
func (r *rings) setUsed(flags, idx uint16) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&r.used[0:4][0])), uint32(flags)|uint32(idx)<<16)
}

// usedIdx reads back the index that the device published, for a queue that takes over from another owner.
func (r *rings) usedIdx() uint16 { return load16(r.used, 2) }

// setAvailEvent writes the index at which the device wants its next kick and orders the store before later loads. Only
// 16 bits are written: what follows the ring is the driver's. The locked operation on fence is the full barrier.
func (r *rings) setAvailEvent(idx uint16) {
	n := len(r.used)
	*(*uint16)(unsafe.Pointer(&r.used[n-2 : n][0])) = idx
	atomic.SwapUint32(&r.fence, 0)
}

// parseDescriptor reads a descriptor of an indirect table from its copy.
func parseDescriptor(raw *[descSize]byte) descriptor {
	return descriptor{
		addr:  binary.LittleEndian.Uint64(raw[0:]),
		len:   binary.LittleEndian.Uint32(raw[8:]),
		flags: binary.LittleEndian.Uint16(raw[12:]),
		next:  binary.LittleEndian.Uint16(raw[14:]),
	}
}
