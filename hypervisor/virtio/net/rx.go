package net

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/net/rss"
)

// receiver moves packets from a tap queue to a receive virtqueue. It keeps a window of chains taken from the queue ahead
// of packets; readv fills them directly. Behind the window's buffers stands a bounce buffer, which catches the end of a
// packet that is longer than packets were lately, so that the window, and the work for each packet, stays small.
type receiver struct {
	q         *virtio.Queue
	fd        int
	stream    *stream // in place of fd
	header    uint64  // bytes before a frame
	mergeable bool    // VIRTIO_NET_F_MRG_RXBUF: a packet may take several chains (virtio 1.2, 5.1.6.4)

	// hashes has what reports hashes of packets: nil where the driver has none reported.
	hashes *atomic.Pointer[rss.Hasher]
	start  [rss.Window]byte // of a packet, for its hash

	ring     []virtio.Chain // window; a power of two, slots from first on are taken
	first, n int
	capacity uint64 // bytes in the window
	iov      []unix.Iovec
	bounce   []byte

	want    uint64 // bytes the window should have before a read
	longest uint64 // longest packet since want was set
	since   int    // packets since

	// A packet that waits for buffers: its length, and how much of it is in the window. The rest is in bounce, or, with a
	// stream, in frame.
	held, heldIn uint64
	frame        []byte
}

// wantPeriod is after how many packets the window adapts to shorter ones.
const wantPeriod = 256

func (d *Device) newReceiver(q *virtio.Queue, t *tap) *receiver {
	r := &receiver{
		q: q, fd: t.fd, stream: t.stream, header: t.header, mergeable: d.has(featureMrgRxbuf),
		ring:   make([]virtio.Chain, 64),
		iov:    make([]unix.Iovec, 0, 128),
		bounce: make([]byte, maxPacket),
		want:   1,
	}
	if d.has(featureHashReport) {
		r.hashes = &d.hasher
	}
	return r
}

// chain is the i-th chain of the window.
func (r *receiver) chain(i int) *virtio.Chain { return &r.ring[(r.first+i)&(len(r.ring)-1)] }

// fill takes chains until the window has want bytes or the queue is empty. Without merging one chain is a packet's all.
func (r *receiver) fill(want uint64) error {
	for r.capacity < want && (r.n == 0 || r.mergeable) {
		if r.n == len(r.ring) {
			r.grow()
		}
		c := r.chain(r.n)
		ok, err := r.q.Pop(c)
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		r.n++
		r.capacity += c.WriteLen
		if c.WriteLen < r.header { // virtio 1.2, 5.1.6.3.1
			return fmt.Errorf("queue %d: receive buffer of %d bytes is shorter than a header: %w", r.q.Index(), c.WriteLen, virtio.ErrMalformed)
		}
	}
	return nil
}

// grow doubles the window, for a driver with very small buffers. A queue's size ends it.
func (r *receiver) grow() {
	ring := make([]virtio.Chain, 2*len(r.ring))
	for i := range r.n {
		ring[i] = *r.chain(i)
	}
	r.ring, r.first = ring, 0
}

// giveBack returns the window to the queue, and forgets a held packet.
func (r *receiver) giveBack() {
	for ; r.n > 0; r.n-- {
		r.q.Unpop(r.chain(r.n - 1))
	}
	r.capacity, r.held = 0, 0
}

// rxResult says why receive returned.
type rxResult int

const (
	rxMore    rxResult = iota // the budget is used up
	rxDrained                 // the tap has no more packets
	rxStarved                 // the driver gave no buffers
	rxGone                    // the tap does not work any more
)

// receive moves up to budget packets and counts them in s. The caller notifies.
func (r *receiver) receive(budget int, s *Stats) (rxResult, error) {
	for range budget {
		if r.held == 0 {
			if err := r.fill(r.want); err != nil {
				return 0, err
			}
			if r.n == 0 {
				return rxStarved, nil
			}
			n, e := r.read()
			switch {
			case e == 0 && n > int(r.header):
			case e == unix.EAGAIN:
				return rxDrained, nil
			case e == unix.EBADFD || e == unix.EBADF || e == 0 && n == 0:
				return rxGone, nil
			case e == unix.EINTR || e == 0:
				continue
			default:
				// A packet that could not be copied (EFAULT, ENOMEM) is gone; the next may work.
				s.RxErrors++
				continue
			}
		}
		done, err := r.deliver(s)
		if err != nil {
			return 0, err
		}
		if !done {
			return rxStarved, nil
		}
	}
	return rxMore, nil
}

// read takes one packet from the tap or stream, and returns its length with the header.
func (r *receiver) read() (int, unix.Errno) {
	if r.stream == nil {
		iov, room := r.vectors()
		n, e := readv(r.fd, iov)
		if e == 0 && n > int(r.header) {
			r.held, r.heldIn = uint64(n), min(uint64(n), room)
		}
		return n, e
	}
	frame, e := r.stream.next()
	if e != 0 {
		return 0, e
	}
	if len(frame) < minFrame {
		return 0, unix.EINVAL
	}
	r.frame = frame
	r.held, r.heldIn = r.header+uint64(len(frame)), r.header
	return int(r.held), 0
}

// noHeader is the virtio header of a packet of which nothing was offloaded.
var noHeader [hashHeaderSize]byte

// vectors lists the window's buffers, as far as one readv takes them, and the bounce buffer. It also returns the bytes
// before the bounce buffer.
func (r *receiver) vectors() (iov []unix.Iovec, room uint64) {
	iov = r.iov[:0]
	for i := 0; i < r.n && len(iov) < virtio.MaxChain-1; i++ {
		c := r.chain(i)
		iov = append(iov, c.Write[:min(len(c.Write), virtio.MaxChain-1-len(iov))]...)
		room += c.WriteLen
	}
	if len(iov) == virtio.MaxChain-1 { // perhaps cut
		room = 0
		for i := range iov {
			room += iov[i].Len
		}
	}
	r.iov = append(iov, unix.Iovec{Base: &r.bounce[0], Len: uint64(len(r.bounce))})
	return r.iov, room
}

// deliver gives the held packet to the driver, or drops it. It reports false when the packet waits for buffers.
func (r *receiver) deliver(s *Stats) (bool, error) {
	if r.capacity < r.held {
		if err := r.fill(r.held); err != nil {
			return false, err
		}
		if r.capacity < r.held {
			if r.mergeable && r.n < int(r.q.Size()) {
				return false, nil
			}
			s.RxDropped++ // longer than all buffers the driver has
			r.held = 0
			return true, nil
		}
	}
	r.spill()
	r.adapt(r.held)
	used := r.give()
	s.RxPackets++
	s.RxBytes += used - r.header
	return true, nil
}

// spill copies the bounced end of the packet to the window.
func (r *receiver) spill() {
	p, off := r.frame, r.heldIn
	if r.stream == nil {
		p = r.bounce[:r.held-r.heldIn] // mostly empty
	} else {
		r.chain(0).CopyOut(0, noHeader[:r.header])
	}
	for i := 0; len(p) > 0 && i < r.n; i++ {
		c := r.chain(i)
		if off >= c.WriteLen {
			off -= c.WriteLen
			continue
		}
		p = p[c.CopyOut(off, p):]
		off = 0
	}
}

// give hands the chains that hold the packet to the driver, all at once, and returns the packet's length.
func (r *receiver) give() uint64 {
	left, k := r.held, 0
	for left > 0 {
		left -= min(left, r.chain(k).WriteLen)
		k++
	}
	r.finish(k)
	left = r.held
	for range k {
		c := r.chain(0)
		part := min(left, c.WriteLen)
		left -= part
		c.MarkDirty(part)
		r.q.Stage(c, uint32(part))
		r.capacity -= c.WriteLen
		r.first = (r.first + 1) & (len(r.ring) - 1)
		r.n--
	}
	r.q.Publish()
	length := r.held
	r.held = 0
	return length
}

// finish writes to the header of a packet of so many chains what no tap does: num_buffers, hash_value and hash_report, and the
// padding behind them.
func (r *receiver) finish(chains int) {
	var end [hashHeaderSize - numBuffersAt]byte
	binary.LittleEndian.PutUint16(end[0:], uint16(chains))
	if r.hashes != nil {
		if h := r.hashes.Load(); h != nil {
			sum, report := h.Sum(r.look())
			binary.LittleEndian.PutUint32(end[2:], sum)
			binary.LittleEndian.PutUint16(end[6:], uint16(report))
		}
	}
	r.chain(0).CopyOut(numBuffersAt, end[:r.header-numBuffersAt])
}

// look copies the first bytes of the packet from the window, where the guest may change them at the same time: what is looked
// at is what was copied.
func (r *receiver) look() []byte {
	p, off, done := r.start[:min(r.held-r.header, rss.Window)], r.header, 0
	for i := 0; done < len(p) && i < r.n; i++ {
		c := r.chain(i)
		if off >= c.WriteLen {
			off -= c.WriteLen
			continue
		}
		done += virtio.CopyFrom(p[done:], c.Write, off)
		off = 0
	}
	return p[:done]
}

// adapt sizes the window after the packets seen: up at once, down after a while.
func (r *receiver) adapt(length uint64) {
	r.longest = max(r.longest, length)
	if r.since++; length > r.want || r.since >= wantPeriod {
		r.want, r.longest, r.since = max(r.longest, 1), 0, 0
	}
}

// discard throws away up to budget packets of the tap.
func (r *receiver) discard(budget int, s *Stats) rxResult {
	iov := append(r.iov[:0], unix.Iovec{Base: &r.bounce[0], Len: uint64(len(r.bounce))})
	if r.held != 0 {
		r.held = 0
		s.RxDropped++
	}
	for range budget {
		switch n, e := r.skip(iov); {
		case e == unix.EAGAIN:
			return rxDrained
		case e == unix.EBADFD || e == unix.EBADF || e == 0 && n == 0:
			return rxGone
		case e == 0:
			s.RxDropped++
		}
	}
	return rxMore
}

// skip reads one packet to nowhere.
func (r *receiver) skip(iov []unix.Iovec) (int, unix.Errno) {
	if r.stream == nil {
		return readv(r.fd, iov)
	}
	frame, e := r.stream.next()
	return int(r.header) + len(frame), e
}
