package virtio

// Follower keeps account of a queue with a split ring that somebody else serves, so that the queue can be served on when
// that one is gone without a word: which of the driver's chains it gave back, and which not, cannot be told from the rings
// alone when they are given back in another order than they came. It looks at the rings at times (Look); as long as less
// than a queue's worth of chains passes between two looks the account is right, and when it is not that is known. One
// goroutine at a time uses it.
type Follower struct {
	q     *Queue
	avail uint16 // driver's index at the last look
	used  uint16 // and the other's
	exact bool
	// owed has for each head how often it was made available and not given back, and order the heads as they came,
	// with those that were given back since.
	owed  []int8
	order []uint16
	seen  []bool // by head, for pending; else all false
}

// NewFollower follows q, whose ring is split, from its Base on, before anybody serves it. Nothing is in flight then.
func NewFollower(q *Queue) *Follower {
	size := int(q.cfg.Size)
	f := &Follower{q: q, owed: make([]int8, size), order: make([]uint16, 0, 2*size), seen: make([]bool, size)}
	f.restart(q.lastAvail, q.r.usedIdx())
	f.Look()
	return f
}

// restart begins anew where nothing is in flight.
func (f *Follower) restart(avail, used uint16) {
	f.avail, f.used, f.exact = avail, used, avail == used
	clear(f.owed)
	f.order = f.order[:0]
}

// Look catches up with the rings and reports whether chains are in flight.
func (f *Follower) Look() (busy bool) {
	used := f.q.r.usedIdx() // first: what is given back was made available before
	avail := f.q.r.availIdx()
	if avail == used {
		f.restart(avail, used)
		return false
	}
	if !f.exact {
		return true
	}
	size := f.q.cfg.Size
	if avail-f.avail > size || used-f.used > size {
		f.exact = false
		return true
	}
	for i := f.avail; i != avail; i++ {
		if head := f.q.r.availEntry(i & f.q.mask); head < size {
			f.owed[head]++
			f.order = append(f.order, head)
		} else {
			f.exact = false
		}
	}
	for i := f.used; i != used; i++ {
		if head := f.q.r.usedEntry(i & f.q.mask); head < uint32(size) {
			f.owed[head]--
		} else {
			f.exact = false
		}
	}
	// Entries that were read may have been written over meanwhile.
	if f.q.r.availIdx()-f.avail > size || f.q.r.usedIdx()-f.used > size {
		f.exact = false
	}
	f.avail, f.used = avail, used
	f.forget()
	return true
}

// forget drops the heads that were given back from order: of each head only the latest times count.
func (f *Follower) forget() {
	if len(f.order) >= int(f.q.cfg.Size) {
		f.pending()
	}
}

// pending are the heads in flight, as they came. A head is in flight once at most.
func (f *Follower) pending() []uint16 {
	kept := len(f.order)
	for i := len(f.order) - 1; i >= 0; i-- { // the last time that a head came is the one that counts
		if head := f.order[i]; f.owed[head] > 0 && !f.seen[head] {
			f.seen[head] = true
			kept--
			f.order[kept] = head
		}
	}
	f.order = f.order[:copy(f.order, f.order[kept:])]
	for _, head := range f.order {
		f.seen[head] = false
	}
	return f.order
}

// TakeOver sets the queue's Base so that another one serves exactly the chains that are in flight, and reports whether
// which these are is known. Nobody serves the queue any more. The entries of the available ring that the other one is to
// look at are rewritten: drivers never read them. When it is not known, it is taken for granted that chains were given
// back in the order in which they came.
func (f *Follower) TakeOver() (exact bool) {
	f.Look()
	used := f.used
	if !f.exact {
		used = f.q.r.usedIdx()
	}
	f.q.SetBase(uint32(used))
	heads := f.pending()
	if !f.exact || len(heads) != int(f.avail-f.used) {
		return false
	}
	for i, head := range heads {
		f.q.r.putAvail((used+uint16(i))&f.q.mask, head)
	}
	return true
}

// TakeUsed sets the Base of a queue with a split ring behind the last chain that was given back: a next owner serves all
// from there. It is right after an owner that gave chains back in order, or that noted elsewhere which are in flight. In a
// packed ring nothing tells where that is.
func (q *Queue) TakeUsed() { q.SetBase(uint32(q.r.usedIdx())) }

// UsedIndex is the index of the next chain to be given back in a split ring, as the driver sees it.
func (q *Queue) UsedIndex() uint16 { return q.r.usedIdx() }
