package virtiotest

import (
	"encoding/binary"

	"virtd/hypervisor/virtio"
)

// Descriptor flags of packed rings (virtio 1.2, 2.8.1).
const (
	Avail = 1 << 7
	Done  = 1 << 15 // VIRTQ_DESC_F_USED
)

// Event suppression flags (virtio 1.2, 2.8.10).
const (
	EventEnable  = 0
	EventDisable = 1
	EventDesc    = 2
)

// packedRing is the driver's state of a packed ring (virtio 1.2, 2.8).
type packedRing struct {
	next, seen position          // next descriptor to make available, and to look for as used
	room       int               // descriptors not in use
	ids        []uint16          // buffer identifiers not in use
	taken      map[uint16]uint16 // descriptors of each buffer by identifier
	added      uint16            // descriptors made available by the last Add
}

// position is a place in the ring with its wrap counter.
type position struct {
	slot uint16
	wrap bool
}

func (p position) word() uint16 {
	if p.wrap {
		return p.slot | 1<<15
	}
	return p.slot
}

func (p *position) advance(n, size uint16) {
	if p.slot += n; p.slot >= size {
		p.slot, p.wrap = p.slot-size, !p.wrap
	}
}

// flags marks a descriptor available in the round that p is in.
func (p position) flags() uint16 {
	if p.wrap {
		return Avail
	}
	return Done
}

func newPackedRing(size uint16) packedRing {
	p := packedRing{next: position{wrap: true}, seen: position{wrap: true}, room: int(size), taken: map[uint16]uint16{}}
	for i := range size {
		p.ids = append(p.ids, i)
	}
	return p
}

// Packed reports whether the driver accepted packed rings.
func (r *Ring) Packed() bool { return r.Features&virtio.FeatureRingPacked != 0 }

// PutPacked writes a packed descriptor at gpa: into the ring (r.Desc+16*i) or an indirect table. Its flags come last.
func (r *Ring) PutPacked(gpa, addr uint64, n uint32, id, flags uint16) {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[0:], addr)
	binary.LittleEndian.PutUint32(b[8:], n)
	if err := r.Mem.WriteAt(b[:], gpa); err != nil {
		panic(err)
	}
	if err := r.Mem.StoreUint32(gpa+12, uint32(id)|uint32(flags)<<16); err != nil {
		panic(err)
	}
}

// SetPacked writes descriptor i of the ring as it stands, whether it makes sense or not.
func (r *Ring) SetPacked(i uint16, addr uint64, n uint32, id, flags uint16) {
	r.PutPacked(r.Desc+16*uint64(i), addr, n, id, flags)
}

// Room is how many descriptors of a packed ring are free.
func (r *Ring) Room() int { return r.packed.room }

// addPacked makes one chain of n descriptors available, which put writes, and returns its buffer identifier. The first one
// comes last. Identifiers come back in another order than they went.
func (r *Ring) addPacked(n int, put func(i int, slot, id, flags uint16)) uint16 {
	p := &r.packed
	if n > p.room {
		panic("virtiotest: ring is full")
	}
	id := p.ids[len(p.ids)-1]
	p.ids = p.ids[:len(p.ids)-1]
	p.room -= n
	p.taken[id], p.added = uint16(n), uint16(n)
	first := p.next
	at := first
	for i := 1; i < n; i++ {
		at.advance(1, r.Size)
		put(i, at.slot, id, at.flags())
	}
	put(0, first.slot, id, first.flags())
	p.next.advance(uint16(n), r.Size)
	return id
}

func (r *Ring) addPackedBufs(bufs []Buf) uint16 {
	return r.addPacked(len(bufs), func(i int, slot, id, flags uint16) {
		b := bufs[i]
		if i+1 < len(bufs) {
			flags |= Next
			id = 0xffff // only the last descriptor's counts
		}
		if b.Write {
			flags |= Write
		}
		r.SetPacked(slot, b.GPA, b.Len, id, flags)
	})
}

func (r *Ring) addPackedIndirect(gpa uint64, bufs []Buf) uint16 {
	for i, b := range bufs {
		flags := uint16(0)
		if b.Write {
			flags |= Write
		}
		r.PutPacked(gpa+16*uint64(i), b.GPA, b.Len, 0, flags)
	}
	return r.addPacked(1, func(_ int, slot, id, flags uint16) {
		r.SetPacked(slot, gpa, uint32(16*len(bufs)), id, flags|Indirect)
	})
}

// collectPacked is Collect.
func (r *Ring) collectPacked() (Used, bool) {
	p := &r.packed
	gpa := r.Desc + 16*uint64(p.seen.slot)
	word, err := r.Mem.LoadUint32(gpa + 12)
	if err != nil {
		panic(err)
	}
	flags := uint16(word >> 16)
	if (flags&Avail != 0) != p.seen.wrap || (flags&Done != 0) != p.seen.wrap {
		return Used{}, false
	}
	u := Used{ID: word & 0xffff}
	if flags&Write != 0 { // else the length means nothing
		if u.Len, err = r.Mem.LoadUint32(gpa + 8); err != nil {
			panic(err)
		}
	}
	n, ok := p.taken[uint16(u.ID)]
	if !ok {
		panic("virtiotest: the device used a buffer that it does not have")
	}
	delete(p.taken, uint16(u.ID))
	p.ids = append(p.ids, uint16(u.ID))
	p.room += int(n)
	p.seen.advance(n, r.Size)
	return u, true
}

// SetDriverEvent writes the driver's event suppression structure.
func (r *Ring) SetDriverEvent(desc, flags uint16) {
	if err := r.Mem.StoreUint32(r.Avail, uint32(desc)|uint32(flags)<<16); err != nil {
		panic(err)
	}
}

// DeviceEvent reads the device's.
func (r *Ring) DeviceEvent() (desc, flags uint16) {
	w, err := r.Mem.LoadUint32(r.Used)
	if err != nil {
		panic(err)
	}
	return uint16(w), uint16(w >> 16)
}

// wantInterrupt asks for an interrupt at the next used buffer.
func (r *Ring) wantInterrupt() {
	switch {
	case !r.Packed():
		r.SetUsedEvent(r.seen)
	case r.Features&virtio.FeatureEventIdx != 0:
		r.SetDriverEvent(r.packed.seen.word(), EventDesc)
	default:
		r.SetDriverEvent(0, EventEnable)
	}
}

// wantsPackedKick is WantsKick as Linux decides it.
func (r *Ring) wantsPackedKick() bool {
	desc, flags := r.DeviceEvent()
	if flags != EventDesc {
		return flags != EventDisable
	}
	p := &r.packed
	event := desc &^ (1 << 15)
	if (desc>>15 != 0) != p.next.wrap {
		event -= r.Size
	}
	return p.next.slot-event-1 < p.added
}
