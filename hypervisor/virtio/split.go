package virtio

// Ring flags without VIRTIO_F_EVENT_IDX.
const (
	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.6)
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY (2.7.8)
)

// refresh reads the driver's index and reports whether a chain waits.
func (q *Queue) refresh() (bool, error) {
	idx := q.r.availIdx()
	if idx-q.lastAvail > q.cfg.Size {
		return false, q.fail("available index %d is more than %d ahead of %d", idx, q.cfg.Size, q.lastAvail)
	}
	q.seenAvail = idx
	return idx != q.lastAvail, nil
}

// walk follows the chain from head in the queue's own table. The number of steps is limited by the table's size, which
// ends every loop.
func (q *Queue) walk(c *Chain, head uint16) error {
	i := head
	for steps := uint16(0); ; steps++ {
		if steps == q.cfg.Size {
			return q.fail("chain at %d is longer than the table of %d", head, q.cfg.Size)
		}
		d := q.r.descriptor(i)
		if d.flags&descIndirect != 0 {
			if !q.indirect || d.flags&descNext != 0 {
				return q.fail("descriptor %d: flags %#x: indirect is not negotiated or has a next", i, d.flags)
			}
			return q.walkIndirect(c, d)
		}
		if err := q.take(c, d, i); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		if i = d.next; i >= q.cfg.Size {
			return q.fail("chain at %d: next %d is beyond the table of %d", head, i, q.cfg.Size)
		}
	}
}

// walkIndirect follows the chain in the indirect table that t describes (virtio 1.2, 2.7.5.3).
func (q *Queue) walkIndirect(c *Chain, t descriptor) error {
	n := t.len / descSize
	if t.len%descSize != 0 || n == 0 || n > MaxChain {
		return q.fail("indirect table of %d bytes", t.len)
	}
	var i uint32
	var raw [descSize]byte
	for steps := uint32(0); ; steps++ {
		if steps == n {
			return q.fail("indirect chain is longer than its table of %d", n)
		}
		addr := t.addr + uint64(i)*descSize
		if addr < t.addr {
			return q.fail("indirect table at %#x wraps", t.addr)
		}
		if err := q.mem.ReadAt(raw[:], addr); err != nil {
			return q.fail("indirect table: %v", err)
		}
		d := parseDescriptor(&raw)
		if d.flags&descIndirect != 0 {
			return q.fail("indirect table inside an indirect table")
		}
		if err := q.take(c, d, uint16(i)); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		if i = uint32(d.next); i >= n {
			return q.fail("indirect chain: next %d is beyond its table of %d", i, n)
		}
	}
}

// storeUsed publishes the used ring's flags and index.
func (q *Queue) storeUsed() {
	q.r.setUsed(q.flags, q.published)
	q.mem.MarkDirty(q.cfg.Used, 4)
}

// wantsSplitInterrupt decides as virtio 1.2, 2.7.7.2 says. The used index was stored with a full barrier before.
func (q *Queue) wantsSplitInterrupt() bool {
	old, valid := q.signalled, q.signalledValid
	if valid && old == q.published {
		return false
	}
	if !q.eventIdx {
		q.signalled, q.signalledValid = q.published, true
		return q.r.availFlags()&availNoInterrupt == 0
	}
	q.signalled, q.signalledValid = q.published, true
	if !valid {
		return true
	}
	return needEvent(q.r.usedEvent(), q.published, old)
}

// needEvent is vring_need_event: whether moving an index from old to new passed event (virtio 1.2, 2.7.7.2).
func needEvent(event, new, old uint16) bool { return new-event-1 < new-old }
