package virtio

import (
	"errors"
	"fmt"

	"virtd/hypervisor/memory"
)

// MaxQueueSize is the largest virtqueue, split or packed (virtio 1.2, 2.7 and 2.8).
const MaxQueueSize = 32768

// Descriptor flags (virtio 1.2, 2.7.5).
const (
	descNext     = 1 // VIRTQ_DESC_F_NEXT
	descWrite    = 2 // VIRTQ_DESC_F_WRITE
	descIndirect = 4 // VIRTQ_DESC_F_INDIRECT
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
	Index int
	Size  uint16 // entries up to MaxQueueSize, of a split ring a power of two
	// Desc, Avail and Used are the guest addresses of the three parts. With a packed ring they are the descriptor ring, the
	// driver's and the device's event suppression structure.
	Desc, Avail, Used uint64
	// Features are accepted by the driver; FeatureRingPacked, FeatureEventIdx and FeatureIndirectDesc matter here.
	Features  uint64
	KickFD    int // eventfd of the doorbell; -1 if there is none
	CallFD    int // eventfd that raises the interrupt, for kernel back ends; -1 if there is none
	Interrupt Interrupt
}

// Queue is the device's end of one virtqueue. One goroutine at a time uses it, except for Index, Size, KickFD,
// CallFD and Rings, which never change. It does not allocate after NewQueue, but for errors and the growth of a Chain.
type Queue struct {
	cfg      QueueConfig
	mem      *memory.Memory
	packed   *packedRing // nil: the ring is split
	eventIdx bool
	indirect bool
	inFlight int // chains taken and not given back

	// A split ring:
	r         rings
	mask      uint16
	lastAvail uint16 // next available slot to take
	seenAvail uint16 // driver's index when last read
	nextUsed  uint16 // next used slot to fill
	published uint16 // index the driver sees
	flags     uint16 // used ring flags

	signalled      uint16 // used index at the last Notify
	signalledValid bool   // false after SetBase: the next Notify interrupts whatever used_event says

	eventfd interface{ FD() int } // cfg.Interrupt, where it has one

	err error // set once the queue is broken
}

// NewQueue checks the layout that a driver chose and makes the queue. The rings must be in RAM, each in one region.
func NewQueue(mem *memory.Memory, cfg QueueConfig) (*Queue, error) {
	packed := cfg.Features&FeatureRingPacked != 0
	if !validSize(cfg.Size, packed) {
		return nil, fmt.Errorf("queue %d: size %d: 1 to %d are possible, with a split ring powers of two: %w", cfg.Index, cfg.Size, MaxQueueSize, ErrMalformed)
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
	parts := q.splitParts()
	if packed {
		q.packed = newPackedRing(cfg.Size)
		parts = q.packedParts()
	}
	for _, part := range parts {
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

// validSize reports whether a ring can have so many entries.
func validSize(size uint16, packed bool) bool {
	return size != 0 && size <= MaxQueueSize && (packed || size&(size-1) == 0)
}

// part is one of the three parts of a queue in guest memory.
type part struct {
	name            string
	gpa, len, align uint64
	destination     *[]byte
}

// splitParts is the layout of virtio 1.2, 2.7.
func (q *Queue) splitParts() [3]part {
	n := uint64(q.cfg.Size)
	return [3]part{
		{"descriptor table", q.cfg.Desc, n * descSize, 16, &q.r.desc},
		{"available ring", q.cfg.Avail, availRing + 2*n + 2, 2, &q.r.avail},
		{"used ring", q.cfg.Used, usedRing + usedElemSize*n + 2, 4, &q.r.used},
	}
}

// packedParts is the layout of virtio 1.2, 2.8.
func (q *Queue) packedParts() [3]part {
	return [3]part{
		{"descriptor ring", q.cfg.Desc, uint64(q.cfg.Size) * descSize, 16, &q.packed.desc},
		{"driver event suppression", q.cfg.Avail, eventSize, eventAlign, &q.packed.driver},
		{"device event suppression", q.cfg.Used, eventSize, eventAlign, &q.packed.device},
	}
}

// Index is the virtqueue index.
func (q *Queue) Index() int { return q.cfg.Index }

// Size is the number of entries, of a split ring a power of two.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// KickFD is the non-blocking eventfd that the driver's doorbell signals. The transport owns it. It may be signalled
// when there is nothing to do, and the first look at the queue must not wait for it.
func (q *Queue) KickFD() int { return q.cfg.KickFD }

// CallFD is an eventfd that raises the queue's interrupt, for back ends in the kernel. The transport owns it.
func (q *Queue) CallFD() int { return q.cfg.CallFD }

// Rings returns the guest addresses of the three parts, as QueueConfig has them.
func (q *Queue) Rings() (desc, avail, used uint64) { return q.cfg.Desc, q.cfg.Avail, q.cfg.Used }

// Features returns the features that the driver accepted; FeatureRingPacked says which kind of ring the queue has.
func (q *Queue) Features() uint64 { return q.cfg.Features }

// Base is where the queue stands, as vhost has it in a vring base: of a split ring the index of the next available entry
// to take; of a packed ring the index of the next descriptor to take in bits 0 to 14 with its wrap counter in bit 15, and
// of the next to give back in bits 16 to 30 with bit 31.
func (q *Queue) Base() uint32 {
	if q.packed != nil {
		return q.packed.base()
	}
	return uint32(q.lastAvail)
}

// SetBase continues a queue at the Base that another owner (vhost, or this queue in an earlier life) reached. The used
// index of a split ring is what that owner last published. It takes nothing to be in flight. A base that a packed ring
// cannot have breaks the queue.
func (q *Queue) SetBase(base uint32) {
	q.inFlight = 0
	if q.packed != nil {
		if !q.packed.setBase(base) {
			_ = q.fail("base %#x is not a place in a ring of %d", base, q.cfg.Size)
		}
		return
	}
	q.lastAvail, q.seenAvail = uint16(base), uint16(base)
	q.nextUsed = q.r.usedIdx()
	q.published = q.nextUsed
	q.flags = 0
	q.signalledValid = false
}

// InFlight is the number of chains taken and not pushed back.
func (q *Queue) InFlight() int { return q.inFlight }

// Err returns what broke the queue, or nil.
func (q *Queue) Err() error { return q.err }

// Pending reports whether the driver made a chain available that Pop did not return yet.
func (q *Queue) Pending() bool {
	if q.packed != nil {
		return q.err == nil && q.packed.pending()
	}
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
	if q.packed != nil {
		return q.popPacked(c)
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

// Unpop makes the chain that was taken last available again, untouched. More can be given back in the opposite order;
// none that was taken after them was pushed.
func (q *Queue) Unpop(c *Chain) {
	if q.inFlight == 0 {
		return
	}
	q.inFlight--
	if q.packed != nil {
		q.packed.unpop(c.slots)
		return
	}
	q.lastAvail--
}

// Push gives a chain back to the driver, written bytes of its device-writable part filled from the start. The driver sees
// it at once, and may need Notify to look. Prefer PushChain where the device wrote.
func (q *Queue) Push(c *Chain, written uint32) {
	q.Stage(c, written)
	q.Publish()
}

// PushChain is Push with the written pages marked dirty.
func (q *Queue) PushChain(c *Chain, written uint32) {
	c.MarkDirty(uint64(written))
	q.Push(c, written)
}

// Stage is Push of which the driver sees nothing before Publish: chains that make sense only together (one packet in
// several buffers) appear together.
func (q *Queue) Stage(c *Chain, written uint32) {
	if q.inFlight > 0 {
		q.inFlight--
	}
	if q.packed != nil {
		q.packed.stage(q.mem, q.cfg.Desc, c.Head, c.slots, written)
		return
	}
	slot := q.nextUsed & q.mask
	q.r.putUsed(slot, uint32(c.Head), written)
	q.mem.MarkDirty(q.cfg.Used+usedRing+usedElemSize*uint64(slot), usedElemSize)
	q.nextUsed++
}

// Publish shows the driver what was staged.
func (q *Queue) Publish() {
	if q.packed != nil {
		q.packed.publish(q.mem, q.cfg.Desc)
		return
	}
	if q.published != q.nextUsed {
		q.published = q.nextUsed
		q.storeUsed()
	}
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

// wantsInterrupt reports whether the driver wants to know about what was published since it was last called.
func (q *Queue) wantsInterrupt() bool {
	if q.packed != nil {
		return q.packed.wantsInterrupt(q.eventIdx)
	}
	return q.wantsSplitInterrupt()
}

// DisableKicks asks the driver not to kick while the device is looking anyway. Kicks may still come.
func (q *Queue) DisableKicks() {
	if q.packed != nil {
		q.packed.setEvent(q.mem, q.cfg.Used, eventDisable)
		return
	}
	// With event indexes it is enough not to move avail_event: the driver kicks when it passes it, and it has.
	if !q.eventIdx && q.flags&usedNoNotify == 0 {
		q.flags |= usedNoNotify
		q.storeUsed()
	}
}

// EnableKicks asks for a kick at the next available chain, and reports whether one came before the driver could know:
// then the device must look again before it sleeps.
func (q *Queue) EnableKicks() (more bool) {
	if q.packed != nil {
		q.packed.enableKicks(q.mem, q.cfg.Used, q.eventIdx)
		return q.Pending()
	}
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
