package virtio

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kicks lets a goroutine wait for a queue's doorbell without a thread of its own, through the runtime's poller. Devices
// with their own event loop (blk on io_uring, vhost) use KickFD instead. One goroutine at
// a time waits; Close may come from any.
type Kicks struct {
	f        *os.File
	deadline bool // one is set
}

// NewKicks makes the waiter of q. Close it when the device stops.
func NewKicks(q *Queue) (*Kicks, error) {
	k, err := newKicks(q.KickFD())
	if err != nil {
		return nil, fmt.Errorf("queue %d: %w", q.Index(), err)
	}
	return k, nil
}

func newKicks(eventfd int) (*Kicks, error) {
	fd, err := unix.FcntlInt(uintptr(eventfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate an eventfd: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make an eventfd non-blocking: %w", err)
	}
	return &Kicks{f: os.NewFile(uintptr(fd), "eventfd")}, nil
}

// Wait blocks until the doorbell rings. It reports false after Close.
func (k *Kicks) Wait() bool {
	if k.deadline {
		if k.f.SetReadDeadline(time.Time{}) != nil {
			return false
		}
		k.deadline = false
	}
	var b [8]byte
	_, err := k.f.Read(b[:])
	return err == nil
}

// WaitUntil is Wait with a deadline. ok is false after Close; rang is false when the time came first.
func (k *Kicks) WaitUntil(deadline time.Time) (rang, ok bool) {
	if err := k.f.SetReadDeadline(deadline); err != nil {
		return false, false
	}
	k.deadline = true
	var b [8]byte
	_, err := k.f.Read(b[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, true
	}
	return err == nil, err == nil
}

// Close ends every Wait, now and later. The doorbell itself stays open.
func (k *Kicks) Close() { k.f.Close() }
