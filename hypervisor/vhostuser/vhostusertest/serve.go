package vhostusertest

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// handle does what a request asks. The caller holds mu. fds are handle's.
func (b *Backend) handle(request uint32, payload []byte, fds []int) (reply []byte, fd int, err error) {
	le := binary.LittleEndian
	first, second := uint32(0), uint32(0)
	if len(payload) >= 8 {
		first, second = le.Uint32(payload), le.Uint32(payload[4:])
	}
	switch request {
	case GetFeatures:
		return Word(b.cfg.Features), -1, nil
	case SetFeatures:
		b.accepted = le.Uint64(payload)
		b.logWrites()
	case SetLogBase:
		return Word(0), -1, b.setLogBase(payload, fds)
	case GetProtocolFeatures:
		return Word(b.cfg.Protocol), -1, nil
	case SetProtocolFeatures:
		b.protocol = le.Uint64(payload)
	case GetQueueNum:
		return Word(b.cfg.Queues), -1, nil
	case NetSetMTU:
		b.mtu = le.Uint64(payload)
	case SetMemTable:
		return nil, -1, b.setMemory(payload[8:], fds)
	case SetVringNum:
		b.ring(first).num = second
	case SetVringBase:
		b.ring(first).base = second
	case SetVringAddr:
		r := b.ring(first)
		r.desc, r.used, r.avail = le.Uint64(payload[8:]), le.Uint64(payload[16:]), le.Uint64(payload[24:])
	case SetVringCall:
		r := b.ring(first & 0xff)
		closeFD(r.call)
		if r.call = -1; len(fds) == 1 {
			r.call = fds[0]
		}
	case SetVringKick:
		r := b.ring(first & 0xff)
		closeFD(r.kick)
		if r.kick = -1; len(fds) == 1 {
			r.kick = fds[0]
		}
		return nil, -1, b.start(int(first&0xff), r)
	case SetVringEnable:
		b.ring(first).enabled = second == 1
	case GetVringBase:
		r := b.ring(first)
		r.stop()
		r.enabled = false // so that Enabled tells of the next start
		return append(le.AppendUint32(nil, first), le.AppendUint32(nil, r.base)...), -1, nil
	case GetConfig:
		return append(payload[:12:12], b.space[first:first+second]...), -1, nil
	case SetConfig:
		copy(b.space[first:], payload[12:])
	case GetInflightFD:
		fd, err := unix.MemfdCreate("inflight", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, -1, err
		}
		return append(append(Word(4096), Word(0)...), payload[16:20]...), fd, unix.Ftruncate(fd, 4096)
	case SetInflightFD:
		if b.account != nil {
			b.account.Close()
		}
		b.account = os.NewFile(uintptr(fds[0]), "inflight")
	}
	return nil, -1, nil
}

func (b *Backend) ring(i uint32) *ring {
	if b.rings[i] == nil {
		b.rings[i] = &ring{kick: -1, call: -1}
	}
	return b.rings[i]
}

func (b *Backend) setMemory(table []byte, fds []int) error {
	b.unmap()
	var regions []memory.Region
	le := binary.LittleEndian
	for i, fd := range fds {
		t := table[32*i:]
		r := memory.Region{GPA: le.Uint64(t), Size: le.Uint64(t[8:]), File: -1}
		var err error
		r.Host, err = unix.Mmap(fd, int64(le.Uint64(t[24:])), int(r.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		unix.Close(fd)
		if err != nil {
			return err
		}
		regions = append(regions, r)
		b.regions = append(b.regions, region{le.Uint64(t[16:]), r})
	}
	mem, err := memory.FromRegions(regions...)
	b.mem = mem
	b.logWrites()
	return err
}

// guest turns an address of the front end into one of the guest.
func (b *Backend) guest(user uint64) uint64 {
	for _, r := range b.regions {
		if user >= r.user && user-r.user < r.mem.Size {
			return user - r.user + r.mem.GPA
		}
	}
	return ^uint64(0)
}

// signal raises the interrupt of a ring.
type signal struct{ fd int }

// Signal implements virtio.Interrupt.
func (s signal) Signal() {
	if s.fd >= 0 {
		unix.Write(s.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// start serves a ring.
func (b *Backend) start(i int, r *ring) error {
	r.stop()
	q, err := virtio.NewQueue(b.mem, virtio.QueueConfig{
		Index: i, Size: uint16(r.num), Desc: b.guest(r.desc), Avail: b.guest(r.avail), Used: b.guest(r.used), Features: b.accepted,
		KickFD: r.kick, CallFD: r.call, Interrupt: signal{r.call},
	})
	if err != nil {
		return fmt.Errorf("ring %d: %w", i, err)
	}
	q.SetBase(r.base)
	if r.kicks, err = virtio.NewKicks(q); err != nil {
		return err
	}
	r.queue, r.stopping, r.done = q, make(chan struct{}), make(chan struct{})
	go func(mem *memory.Memory, stopping, done chan struct{}) {
		defer close(done)
		b.serve(i, mem, q, r.kicks, stopping)
	}(b.mem, r.stopping, r.done)
	return nil
}

// serve works on chains until the ring is stopped.
func (b *Backend) serve(i int, mem *memory.Memory, q *virtio.Queue, k *virtio.Kicks, stopping chan struct{}) {
	var c virtio.Chain
	for {
		for {
			ok, err := q.Pop(&c)
			if err != nil {
				return
			}
			if !ok {
				break
			}
			if b.cfg.Fill != nil && i%2 == 0 {
				n, ok := b.cfg.Fill(&c, stopping)
				if !ok {
					q.Unpop(&c)
					return
				}
				q.PushChain(&c, n)
				b.noteWrites(mem)
				q.Notify()
			} else if n, giveBack := b.cfg.Serve(i, &c); giveBack {
				q.PushChain(&c, n)
				b.noteWrites(mem)
				q.Notify()
			}
		}
		if q.EnableKicks() {
			continue
		}
		if !k.Wait() {
			return
		}
	}
}

// stop ends a ring and notes where it stood.
func (r *ring) stop() {
	if r.queue == nil {
		return
	}
	close(r.stopping)
	r.kicks.Close()
	<-r.done
	r.base = r.queue.Base()
	r.queue = nil
}
