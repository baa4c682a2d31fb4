package block

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// User data of submissions that are not Ops. Ops have their slot.
const (
	tagWake = 1<<32 + iota
	tagKick
	tagRemove
	tagInterrupt
)

// uringEngine runs requests through io_uring. Doorbell and wake-up are multishot polls in the same ring, so that one
// system call submits requests and waits for all that can happen. The doorbell's counter is never read: a poll reports
// each signal whatever the count.
type uringEngine struct {
	l     *Loop
	u     *uring
	slots []*Op // by slot
	free  []uint64
	armed int // doorbell to arm again, -1 for none
	kicks int // doorbell polls in the ring
	retry list
	sink  [8]byte // what the wake eventfd counted
}

func newUringEngine(l *Loop) (*uringEngine, error) {
	u, err := newUring(uint32(max(16, min(l.cfg.Depth, 1024))))
	if err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			err = fmt.Errorf("%w (disabled on this host, or denied; see sysctl kernel.io_uring_disabled)", err)
		}
		return nil, err
	}
	e := &uringEngine{l: l, u: u, armed: -1, slots: make([]*Op, l.cfg.Depth), free: make([]uint64, l.cfg.Depth)}
	for i := range e.free {
		e.free[i] = uint64(len(e.free) - 1 - i)
	}
	e.poll(l.wake, tagWake)
	return e, nil
}

func (e *uringEngine) close() { e.u.close() }

// entry returns a submission entry, handing over the full ring if it must.
func (e *uringEngine) entry() *sqe {
	for {
		if s := e.u.get(); s != nil {
			return s
		}
		if errno := e.u.enter(0); errno != 0 && errno != unix.EINTR && errno != unix.EBUSY && errno != unix.EAGAIN {
			return nil
		}
	}
}

func (e *uringEngine) poll(fd int, tag uint64) {
	if s := e.entry(); s != nil {
		s.opcode, s.fd, s.len, s.opFlags, s.userData = opPollAdd, int32(fd), pollAddMulti, unix.POLLIN, tag
	}
}

func (e *uringEngine) arm(kick int) {
	e.armed = kick
	if kick >= 0 {
		e.poll(kick, tagKick)
		e.kicks++
	}
}

// disarm takes the doorbell's poll back and waits until it is gone.
func (e *uringEngine) disarm() {
	e.armed = -1
	if e.kicks == 0 {
		return
	}
	if s := e.entry(); s != nil {
		s.opcode, s.fd, s.addr, s.userData = opPollRemove, -1, tagKick, tagRemove
	}
	for e.kicks > 0 && e.l.broken == nil {
		e.l.broken = e.wait(forever)
	}
}

func (e *uringEngine) start(op *Op) {
	if len(e.free) == 0 { // the caller exceeded Depth
		op.file.perform(op)
		e.l.finish(op)
		return
	}
	op.slot = e.free[len(e.free)-1]
	e.free = e.free[:len(e.free)-1]
	e.slots[op.slot] = op
	e.issue(op)
}

// issue puts what is left of op into the ring.
func (e *uringEngine) issue(op *Op) {
	img := op.file
	if op.stage == stageMain && (op.Code == Read || op.Code == Write) && img.needsBounce(op) {
		op.Err = img.bounce(op)
		e.release(op)
		return
	}
	s := e.entry()
	if s == nil {
		op.Err = unix.EIO
		e.release(op)
		return
	}
	s.fd, s.userData = int32(img.fd), op.slot
	switch {
	case op.Code == Flush || op.stage == stageFlush:
		s.opcode, s.opFlags = opFsync, fsyncDatasync
	case op.Code == Read:
		s.opcode, s.off = opReadv, uint64(op.at+op.state)
		s.setIov(op.Iov)
	case op.Code == Write:
		s.opcode, s.off, s.opFlags = opWritev, uint64(op.at+op.state), uint32(op.rwFlags())
		s.setIov(op.Iov)
	default: // Discard, WriteZeroes
		mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)
		if op.Code == Discard || op.Unmap && img.opts.Discard && !img.noPunch.Load() {
			mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		}
		s.opcode, s.off, s.addr, s.len = opFallocate, uint64(op.at), uint64(op.Len), mode
	}
}

func (e *uringEngine) release(op *Op) {
	e.slots[op.slot] = nil
	e.free = append(e.free, op.slot)
	e.l.finish(op)
}

// complete takes the result of one submission of op.
func (e *uringEngine) complete(op *Op, res int32) {
	errno := unix.Errno(0)
	if res < 0 {
		errno = unix.Errno(-res)
	}
	switch {
	case errno == unix.EINTR || errno == unix.EAGAIN:
		e.retry.push(op)
		return
	case op.stage == stageFlush || op.Code == Flush:
	case op.Code == Discard:
		if unsupported(errno) {
			op.file.noPunch.Store(true)
			errno = 0
		}
	case op.Code == WriteZeroes:
		if unsupported(errno) {
			op.file.perform(op) // the slow ways, and what remembers that they are needed
			errno = op.Err
		} else if errno == 0 && op.Durable {
			op.stage = stageFlush
			e.retry.push(op)
			return
		}
	case errno == 0:
		if errno = op.progress(int64(res)); errno == 0 && op.state < op.Len {
			e.retry.push(op)
			return
		}
	}
	op.Err = errno
	e.release(op)
}

func (e *uringEngine) wait(limit time.Duration) error {
	var errno unix.Errno
	switch limit {
	case forever:
		errno = e.u.enter(1)
	case 0:
		errno = e.u.enter(0)
	default:
		errno = e.u.enterFor(limit)
	}
	switch errno {
	case 0, unix.EINTR, unix.EBUSY, unix.EAGAIN, unix.ETIME:
	default:
		return fmt.Errorf("%s: submit to io_uring: %w", e.l.cfg.Name, errno)
	}
	for {
		c, ok := e.u.next()
		if !ok {
			break
		}
		switch c.userData {
		case tagWake:
			unix.Read(e.l.wake, e.sink[:])
			if c.flags&cqeMore == 0 {
				e.poll(e.l.wake, tagWake)
			}
		case tagKick:
			if c.flags&cqeMore == 0 {
				if e.kicks--; e.armed >= 0 && c.res >= 0 { // the kernel ends a multishot poll when it must drop events
					e.poll(e.armed, tagKick)
					e.kicks++
				}
			}
		case tagRemove, tagInterrupt:
		default:
			e.complete(e.slots[c.userData], c.res)
		}
	}
	for op := e.retry.pop(); op != nil; op = e.retry.pop() {
		e.issue(op)
	}
	return nil
}

// interrupt queues a write to the eventfd, which is non-blocking. Without the flag that drops its completion the next
// wait would not wait.
func (e *uringEngine) interrupt(eventfd int) bool {
	if e.u.features&featCQESkip == 0 {
		return false
	}
	s := e.entry()
	if s == nil {
		return false
	}
	s.opcode, s.flags, s.fd, s.userData = opWrite, sqeSkipSuccess, int32(eventfd), tagInterrupt
	s.setBytes(eventOne)
	return true
}
