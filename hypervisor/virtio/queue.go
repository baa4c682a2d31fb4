package virtio

import (
	"errors"
	"fmt"

	"virtd/hypervisor/memory"
)

// MaxQueueSize is the largest split virtqueue (virtio 1.2, 2.7).
const MaxQueueSize = 32768

// Descriptor flags (virtio 1.2, 2.7.5).
const (
	descNext     = 1 // VIRTQ_DESC_F_NEXT
	descWrite    = 2 // VIRTQ_DESC_F_WRITE
	descIndirect = 4 // VIRTQ_DESC_F_INDIRECT
)

// Ring flags without VIRTIO_F_EVENT_IDX.
const (
	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.6)
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY (2.7.8)
)

// maxChainBytes is the largest total length of a chain (virtio 1.2, 2.7.5: 2^32 bytes).
const maxChainBytes = 1 << 32

// ErrMalformed is returned (wrapped) for rings and chains that break the specification. The queue is broken from then
// on: the device calls Env.Fail and takes no more from it.
var ErrMalformed = errors.New("malformed virtqueue")

// Interrupt is how a queue interrupts the driver.
type Interrupt interface {
	// Signal raises the interrupt. It does not allocate or block. An Interrupt that also has FD() int, a non-blocking
	// eventfd with the same effect or -1, serves NotifyBy.
	Signal()
}

// QueueConfig is what a driver set up, and the transport's ends of it.
type QueueConfig struct {
	Index             int
	Size              uint16 // entries, a power of two up to MaxQueueSize
	Desc, Avail, Used uint64 // guest addresses of the three parts
	Features          uint64 // accepted by the driver; FeatureEventIdx and FeatureIndirectDesc matter here
	KickFD            int    // eventfd of the doorbell; -1 if there is none
	CallFD            int    // eventfd that raises the interrupt, for kernel back ends; -1 if there is none
	Interrupt         Interrupt
}

// Queue is the device's end of one split virtqueue. One goroutine at a time uses it, except for Index, Size, KickFD,
// CallFD and Rings, which never change. It does not allocate after NewQueue, but for errors and the growth of a Chain.
type Queue struct {
	cfg      QueueConfig
	mem      *memory.Memory
	r        rings
	mask     uint16
	eventIdx bool
	indirect bool

	lastAvail uint16 // next available slot to take
	seenAvail uint16 // driver's index when last read
	nextUsed  uint16 // next used slot to fill
	published uint16 // index the driver sees
	inFlight  int    // chains taken and not given back
	flags     uint16 // used ring flags

	signalled      uint16 // used index at the last Notify
	signalledValid bool   // false after SetBase: the next Notify interrupts whatever used_event says

	eventfd interface{ FD() int } // cfg.Interrupt, where it has one

	err error // set once the queue is broken
}

// NewQueue checks the layout that a driver chose and makes the queue. The rings must be in RAM, each in one region.
func NewQueue(mem *memory.Memory, cfg QueueConfig) (*Queue, error) {
	if cfg.Size == 0 || cfg.Size > MaxQueueSize || cfg.Size&(cfg.Size-1) != 0 {
		return nil, fmt.Errorf("queue %d: size %d is not a power of two up to %d: %w", cfg.Index, cfg.Size, MaxQueueSize, ErrMalformed)
	}
	q := &Queue{
		cfg:      cfg,
		mem:      mem,
		mask:     cfg.Size - 1,
		eventIdx: cfg.Features&FeatureEventIdx != 0,
		indirect: cfg.Features&FeatureIndirectDesc != 0,

		signalledValid: true, // a fresh ring: the driver has seen used index 0
	}
	q.eventfd, _ = cfg.Interrupt.(interface{ FD() int })
	n := uint64(cfg.Size)
	for _, part := range []struct {
		name        string
		gpa, len    uint64
		align       uint64 // virtio 1.2, 2.7
		destination *[]byte
	}{
		{"descriptor table", cfg.Desc, n * descSize, 16, &q.r.desc},
		{"available ring", cfg.Avail, availRing + 2*n + 2, 2, &q.r.avail},
		{"used ring", cfg.Used, usedRing + usedElemSize*n + 2, 4, &q.r.used},
	} {
		if part.gpa%part.align != 0 {
			return nil, fmt.Errorf("queue %d: %s at %#x is not aligned to %d: %w", cfg.Index, part.name, part.gpa, part.align, ErrMalformed)
		}
		b, err := mem.Slice(part.gpa, part.len)
		if err != nil {
			return nil, fmt.Errorf("queue %d: %s: %w: %w", cfg.Index, part.name, err, ErrMalformed)
		}
		*part.destination = b
	}
	return q, nil
}

// Index is the virtqueue index.
func (q *Queue) Index() int { return q.cfg.Index }

// Size is the number of entries.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// KickFD is the non-blocking eventfd that the driver's doorbell signals. The transport owns it. It may be signalled
// when there is nothing to do, and the first look at the queue must not wait for it.
func (q *Queue) KickFD() int { return q.cfg.KickFD }

// CallFD is an eventfd that raises the queue's interrupt, for back ends in the kernel. The transport owns it.
func (q *Queue) CallFD() int { return q.cfg.CallFD }

// Rings returns the guest addresses of the descriptor table and the available and used rings.
func (q *Queue) Rings() (desc, avail, used uint64) { return q.cfg.Desc, q.cfg.Avail, q.cfg.Used }

// Features returns the features that the driver accepted.
func (q *Queue) Features() uint64 { return q.cfg.Features }

// Base is the index of the next available entry to take: what vhost calls the vring base.
func (q *Queue) Base() uint16 { return q.lastAvail }

// SetBase continues a queue at the available index that another owner (vhost, or this queue in an earlier life)
// reached. The used index is what that owner last published. It takes nothing to be in flight.
func (q *Queue) SetBase(avail uint16) {
	q.lastAvail, q.seenAvail = avail, avail
	q.nextUsed = q.r.usedIdx()
	q.published = q.nextUsed
	q.inFlight, q.flags = 0, 0
	q.signalledValid = false
}

// InFlight is the number of chains taken and not pushed back.
func (q *Queue) InFlight() int { return q.inFlight }

// Err returns what broke the queue, or nil.
func (q *Queue) Err() error { return q.err }

// refresh reads the driver's index and reports whether a chain waits.
func (q *Queue) refresh() (bool, error) {
	idx := q.r.availIdx()
	if idx-q.lastAvail > q.cfg.Size {
		return false, q.fail("available index %d is more than %d ahead of %d", idx, q.cfg.Size, q.lastAvail)
	}
	q.seenAvail = idx
	return idx != q.lastAvail, nil
}

// Pending reports whether the driver made a chain available that Pop did not return yet.
func (q *Queue) Pending() bool {
	if q.seenAvail != q.lastAvail {
		return true
	}
	return q.err == nil && q.r.availIdx() != q.lastAvail
}

// Pop takes the next available chain into c. It returns false when there is none. The error is ErrMalformed, and every
// later Pop returns it again.
func (q *Queue) Pop(c *Chain) (bool, error) {
	if q.err != nil {
		return false, q.err
	}
	if q.seenAvail == q.lastAvail {
		if more, err := q.refresh(); !more {
			return false, err
		}
	}
	if q.inFlight >= int(q.cfg.Size) {
		return false, q.fail("more than %d chains in flight", q.cfg.Size)
	}
	head := q.r.availEntry(q.lastAvail & q.mask)
	if head >= q.cfg.Size {
		return false, q.fail("head %d is beyond the table of %d", head, q.cfg.Size)
	}
	c.reset(q.mem, head)
	if err := q.walk(c, head); err != nil {
		return false, err
	}
	c.Read, c.Write = c.read, c.write
	q.lastAvail++
	q.inFlight++
	return true, nil
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

// take adds one descriptor to the chain. i is for the message.
func (q *Queue) take(c *Chain, d descriptor, i uint16) error {
	if d.flags&descWrite == 0 && len(c.write) > 0 {
		return q.fail("descriptor %d: device-readable after device-writable", i)
	}
	fits, err := c.add(d)
	if err != nil {
		return q.fail("descriptor %d: %v", i, err)
	}
	if !fits {
		return q.fail("chain has more than %d pieces", MaxChain)
	}
	if c.ReadLen+c.WriteLen > maxChainBytes {
		return q.fail("chain has more than %d bytes", uint64(maxChainBytes))
	}
	return nil
}

// Unpop gives the n chains that were taken last back to the available ring, untouched.
func (q *Queue) Unpop(n int) {
	n = min(n, q.inFlight)
	q.lastAvail -= uint16(n)
	q.inFlight -= n
}

// Push gives the chain that starts at head back to the driver, written bytes of its device-writable part filled from
// the start. The driver sees it at once, and may need Notify to look. Prefer PushChain where the device wrote.
func (q *Queue) Push(head uint16, written uint32) {
	q.Stage(head, written)
	q.Publish()
}

// PushChain is Push for c, with its written pages marked dirty.
func (q *Queue) PushChain(c *Chain, written uint32) {
	c.MarkDirty(uint64(written))
	q.Push(c.Head, written)
}

// Stage is Push of which the driver sees nothing before Publish: chains that make sense only together (one packet in
// several buffers) appear together.
func (q *Queue) Stage(head uint16, written uint32) {
	slot := q.nextUsed & q.mask
	q.r.putUsed(slot, uint32(head), written)
	q.mem.MarkDirty(q.cfg.Used+usedRing+usedElemSize*uint64(slot), usedElemSize)
	q.nextUsed++
	if q.inFlight > 0 {
		q.inFlight--
	}
}

// Publish shows the driver what was staged.
func (q *Queue) Publish() {
	if q.published != q.nextUsed {
		q.published = q.nextUsed
		q.storeUsed()
	}
}

func (q *Queue) storeUsed() {
	q.r.setUsed(q.flags, q.published)
	q.mem.MarkDirty(q.cfg.Used, 4)
}

// Notify interrupts the driver if it wants to know about what was pushed since the last Notify. Once after a batch is
// enough.
func (q *Queue) Notify() {
	if q.wantsInterrupt() && q.cfg.Interrupt != nil {
		q.cfg.Interrupt.Signal()
	}
}

// NotifyBy is Notify for an owner that can signal an eventfd together with something else it does. signal reports whether
// it will; if not, or if the interrupt has no eventfd, NotifyBy raises it itself.
func (q *Queue) NotifyBy(signal func(eventfd int) bool) {
	if !q.wantsInterrupt() || q.cfg.Interrupt == nil {
		return
	}
	if q.eventfd != nil {
		if fd := q.eventfd.FD(); fd >= 0 && signal(fd) {
			return
		}
	}
	q.cfg.Interrupt.Signal()
}

// wantsInterrupt decides as virtio 1.2, 2.7.7.2 says. The used index was stored with a full barrier before.
func (q *Queue) wantsInterrupt() bool {
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

// DisableKicks asks the driver not to kick while the device is looking anyway. Kicks may still come.
func (q *Queue) DisableKicks() {
	// With event indexes it is enough not to move avail_event: the driver kicks when it passes it, and it has.
	if !q.eventIdx && q.flags&usedNoNotify == 0 {
		q.flags |= usedNoNotify
		q.storeUsed()
	}
}

// EnableKicks asks for a kick at the next available chain, and reports whether one came before the driver could know:
// then the device must look again before it sleeps.
func (q *Queue) EnableKicks() (more bool) {
	if q.eventIdx {
		q.r.setAvailEvent(q.lastAvail)
		q.mem.MarkDirty(q.cfg.Used+usedRing+usedElemSize*uint64(q.cfg.Size), 2)
	} else if q.flags&usedNoNotify != 0 {
		q.flags &^= usedNoNotify
		q.storeUsed() // a full barrier
	}
	return q.Pending()
}

// fail breaks the queue.
func (q *Queue) fail(format string, args ...any) error {
	q.err = fmt.Errorf("queue %d: %w: %s", q.cfg.Index, ErrMalformed, fmt.Sprintf(format, args...))
	return q.err
}
