package net

import (
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
)

// transmitter moves packets from a transmit virtqueue to a tap queue.
type transmitter struct {
	q       *virtio.Queue
	fd      int
	stream  *stream // in place of fd
	header  uint64  // bytes before a frame
	chain   virtio.Chain
	blocked bool // the stream's far end does not keep up
}

func newTransmitter(q *virtio.Queue, t *tap) *transmitter {
	return &transmitter{q: q, fd: t.fd, stream: t.stream, header: t.header}
}

// publishEvery is after how many packets the driver sees them as used within a batch.
const publishEvery = 16

// transmit sends up to budget packets, or takes and drops them, and counts them in s. It reports whether the queue may
// hold more, and whether the tap does not work any more. The caller notifies.
func (t *transmitter) transmit(budget int, drop bool, s *Stats) (more, gone bool, err error) {
	defer t.q.Publish()
	if t.stream != nil {
		defer t.stream.flush()
	}
	t.blocked = false
	for i := range budget {
		if t.stream != nil && !drop && !t.stream.room() {
			t.blocked = true
			return false, gone, nil
		}
		ok, err := t.q.Pop(&t.chain)
		if err != nil || !ok {
			return false, gone, err
		}
		c := &t.chain
		if c.ReadLen < t.header { // virtio 1.2, 5.1.6.2.1
			return false, gone, fmt.Errorf("queue %d: packet of %d bytes is shorter than its header: %w", t.q.Index(), c.ReadLen, virtio.ErrMalformed)
		}
		switch {
		case drop || gone:
			s.TxDropped++
		case c.ReadLen > t.header+maxFrame:
			s.TxErrors++
		default:
			gone = t.send(c, s)
		}
		t.q.Stage(c, 0)
		if i%publishEvery == publishEvery-1 {
			t.q.Publish()
		}
	}
	return true, gone, nil
}

// send writes one packet. What the kernel does not take is the guest's loss: a header that contradicts its packet
// (EINVAL), a tap that is down (EIO), a host short of memory.
func (t *transmitter) send(c *virtio.Chain, s *Stats) (gone bool) {
	if t.stream != nil {
		return t.sendStream(c, s)
	}
	switch _, e := writev(t.fd, c.Read); e {
	case 0:
		s.TxPackets++
		s.TxBytes += c.ReadLen - t.header
	case unix.EBADFD, unix.EBADF:
		s.TxDropped++
		return true
	case unix.EINVAL, unix.EMSGSIZE, unix.EFAULT:
		s.TxErrors++
	default:
		s.TxDropped++
	}
	return false
}

// sendStream queues one packet for a stream.
func (t *transmitter) sendStream(c *virtio.Chain, s *Stats) (gone bool) {
	if t.stream.dead {
		s.TxDropped++
		return true
	}
	if c.ReadLen < t.header+minFrame {
		s.TxErrors++
		return false
	}
	n := t.stream.put(c, t.header)
	if n == 0 {
		s.TxErrors++
		return false
	}
	s.TxPackets++
	s.TxBytes += uint64(n)
	return false
}
