package virtio

import "virtd/hypervisor/memory"

// Descriptor flags of packed rings beside those of split ones (virtio 1.2, 2.8.1). A descriptor is available when its
// first bit is the driver's wrap counter and the second is not; it is used when both are the device's.
const (
	descAvail = 1 << 7  // VIRTQ_DESC_F_AVAIL
	descUsed  = 1 << 15 // VIRTQ_DESC_F_USED
)

// Flags of event suppression structures, in the upper half of their word (virtio 1.2, 2.8.10). The lower half has the
// descriptor of eventDesc and the wrap counter there; 3 is reserved and means eventEnable here.
const (
	eventEnable  = 0 << 16 // RING_EVENT_FLAGS_ENABLE
	eventDisable = 1 << 16 // RING_EVENT_FLAGS_DISABLE
	eventDesc    = 2 << 16 // RING_EVENT_FLAGS_DESC, with FeatureEventIdx
	eventFlags   = 3 << 16
	eventUnknown = ^uint32(0) // no word that the device writes
)

// wrapBit is where a wrap counter stands beside the index of a descriptor: in event suppression structures and bases.
const wrapBit = 1 << 15

// packedRing is the device's end of a packed virtqueue (virtio 1.2, 2.8): driver and device write one ring of descriptors.
// The device takes chains of them in order, and gives back one used descriptor for each, in any order; that stands in the
// first of as many places as the chain had, so that avail and used go round the ring at the same pace.
type packedRing struct {
	packedParts
	size        uint16
	avail, used position // next descriptor to take, and to give back
	taken       int      // descriptors taken and not given back, up to size

	// The first descriptor given back since Publish. Its identifier and flags are written last, because the driver looks at
	// no later one before it is used.
	staged     bool
	stagedSlot uint16
	stagedWord uint32

	added int    // descriptors given back since the last Notify, up to size
	event uint32 // what the device's event suppression structure has
}

// position is a place in a packed ring with the wrap counter that belongs there (virtio 1.2, 2.8.1).
type position struct {
	slot uint16
	wrap bool
}

// forward is the position n descriptors on, at most one round.
func (p position) forward(n, size uint16) position {
	if p.slot += n; p.slot >= size {
		return position{p.slot - size, !p.wrap}
	}
	return p
}

// back is the position n descriptors before, at most one round.
func (p position) back(n, size uint16) position {
	if p.slot < n {
		return position{p.slot + size - n, !p.wrap}
	}
	return position{p.slot - n, p.wrap}
}

// word is the position as event suppression structures and vring bases have it.
func (p position) word() uint32 {
	if p.wrap {
		return uint32(p.slot) | wrapBit
	}
	return uint32(p.slot)
}

func parsePosition(word uint16) position { return position{word &^ wrapBit, word&wrapBit != 0} }

// newPackedRing is the ring as a driver starts it: both wrap counters are 1.
func newPackedRing(size uint16) *packedRing {
	start := position{wrap: true}
	return &packedRing{size: size, avail: start, used: start, event: eventUnknown}
}

// base is what vhost calls the vring base of a packed ring: both positions.
func (p *packedRing) base() uint32 { return p.avail.word() | p.used.word()<<16 }

// parseBase reads a base, and how many descriptors are between its positions. It reports false for positions that a ring
// of that size cannot have.
func parseBase(base uint32, size uint16) (avail, used position, between int, ok bool) {
	avail, used = parsePosition(uint16(base)), parsePosition(uint16(base>>16))
	between = int(avail.slot) - int(used.slot)
	if avail.wrap != used.wrap {
		between += int(size)
	}
	return avail, used, between, avail.slot < size && used.slot < size && between >= 0 && between <= int(size)
}

// setBase continues at a base. Whether the driver was told of what was given back before is not known.
func (p *packedRing) setBase(base uint32) (ok bool) {
	avail, used, between, ok := parseBase(base, p.size)
	if ok {
		p.avail, p.used, p.taken = avail, used, between
		p.added, p.event, p.staged = int(p.size), eventUnknown, false
	}
	return ok
}

// pending reports whether the driver made a chain available.
func (p *packedRing) pending() bool {
	_, flags := p.idFlags(p.avail.slot)
	return available(flags, p.avail.wrap)
}

// available reports whether flags are those of a descriptor that the driver made available in the round of wrap.
func available(flags uint16, wrap bool) bool {
	return (flags&descAvail != 0) == wrap && (flags&descUsed != 0) != wrap
}

// popPacked is Pop.
func (q *Queue) popPacked(c *Chain) (bool, error) {
	p := q.packed
	id, flags := p.idFlags(p.avail.slot)
	if !available(flags, p.avail.wrap) {
		return false, nil
	}
	c.reset(q.mem, 0)
	at := p.avail
	for n := 1; ; n++ {
		if p.taken+n > int(p.size) {
			return false, q.fail("chain at %d: more than the ring's %d descriptors in flight", p.avail.slot, p.size)
		}
		if err := q.takePacked(c, p.descriptor(at.slot, flags), at.slot, n == 1); err != nil {
			return false, err
		}
		at = at.forward(1, p.size)
		if flags&descNext == 0 {
			c.Head, c.slots = id, uint16(n) // the last descriptor has the identifier of the buffer (2.8.6)
			break
		}
		// The driver made the rest of the chain available before its first descriptor (2.8.21).
		if id, flags = p.idFlags(at.slot); !available(flags, at.wrap) {
			return false, q.fail("chain at %d: descriptor %d is not available", p.avail.slot, at.slot)
		}
	}
	c.Read, c.Write = c.read, c.write
	p.avail = at
	p.taken += int(c.slots)
	q.inFlight++
	return true, nil
}

// takePacked adds what descriptor d in slot stands for to the chain. An indirect table is a chain of its own (2.8.19).
func (q *Queue) takePacked(c *Chain, d descriptor, slot uint16, first bool) error {
	if d.flags&descIndirect == 0 {
		return q.take(c, d, slot)
	}
	if !q.indirect || !first || d.flags&descNext != 0 {
		return q.fail("descriptor %d: flags %#x: indirect is not negotiated or part of a chain", slot, d.flags)
	}
	return q.takeTable(c, d)
}

// takeTable adds the buffers of the indirect table t. They follow one another; of their flags and identifiers all but
// VIRTQ_DESC_F_WRITE is ignored (virtio 1.2, 2.8.7).
func (q *Queue) takeTable(c *Chain, t descriptor) error {
	n := t.len / descSize
	if t.len%descSize != 0 || n == 0 || n > MaxChain {
		return q.fail("indirect table of %d bytes", t.len)
	}
	var raw [descSize]byte
	for i := range n {
		addr := t.addr + uint64(i)*descSize
		if addr < t.addr {
			return q.fail("indirect table at %#x wraps", t.addr)
		}
		if err := q.mem.ReadAt(raw[:], addr); err != nil {
			return q.fail("indirect table: %v", err)
		}
		if err := q.take(c, parsePackedDescriptor(&raw), uint16(i)); err != nil {
			return err
		}
	}
	return nil
}

// unpop is Unpop for a chain of n descriptors.
func (p *packedRing) unpop(n uint16) {
	p.avail = p.avail.back(n, p.size)
	p.taken -= int(n)
}

// stage is Stage for a chain of n descriptors; gpa is where the ring is.
func (p *packedRing) stage(mem *memory.Memory, gpa uint64, id, n uint16, written uint32) {
	flags := uint32(0)
	if p.used.wrap {
		flags = descAvail | descUsed
	}
	if written > 0 {
		flags |= descWrite // what says that the length means something (2.8.2)
	}
	slot, word := p.used.slot, uint32(id)|flags<<16
	p.putLen(slot, written)
	if p.staged {
		p.putIDFlags(slot, word)
		mem.MarkDirty(gpa+descSize*uint64(slot), descSize)
	} else {
		p.staged, p.stagedSlot, p.stagedWord = true, slot, word
	}
	p.used = p.used.forward(n, p.size)
	p.taken -= int(n)
	p.added = min(p.added+int(n), int(p.size))
}

// publish is Publish.
func (p *packedRing) publish(mem *memory.Memory, gpa uint64) {
	if p.staged {
		p.staged = false
		p.putIDFlags(p.stagedSlot, p.stagedWord)
		mem.MarkDirty(gpa+descSize*uint64(p.stagedSlot), descSize)
	}
}

// wantsInterrupt decides as virtio 1.2, 2.8.10 says. The used descriptors were stored with a full barrier before.
func (p *packedRing) wantsInterrupt(eventIdx bool) bool {
	added := uint16(p.added)
	if p.added = 0; added == 0 {
		return false
	}
	event := p.driverEvent()
	switch {
	case event&eventFlags == eventDisable:
		return false
	case event&eventFlags != eventDesc || !eventIdx:
		return true
	}
	want := parsePosition(uint16(event))
	if want.wrap != p.used.wrap {
		want.slot -= p.size
	}
	return needEvent(want.slot, p.used.slot, p.used.slot-added)
}

// setEvent writes the device's event suppression structure, which is at gpa, with a full barrier.
func (p *packedRing) setEvent(mem *memory.Memory, gpa uint64, event uint32) {
	if p.event != event {
		p.event = event
		p.putDeviceEvent(event)
		mem.MarkDirty(gpa, eventSize)
	}
}

// enableKicks asks for a kick at the next available chain.
func (p *packedRing) enableKicks(mem *memory.Memory, gpa uint64, eventIdx bool) {
	event := uint32(eventEnable)
	if eventIdx {
		event = eventDesc | p.avail.word()
	}
	p.setEvent(mem, gpa, event)
}
