package net

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// thread runs the workers of one queue pair, or of several in turn, from start to stop. With one each, pairs move packets at the
// same time; but where there are fewer CPUs than threads, each packet costs a switch to the thread of its queue, and one thread
// finds the packets of all queues in one go. Other goroutines talk to it by the workers' atomic fields and poke.
type thread struct {
	workers     []*worker
	epoll, wake int // descriptors
	stopping    atomic.Bool
	done        chan struct{}
}

// Epoll tags: of a worker's descriptors, beside its place among the thread's workers, and of the thread's own.
const (
	tagTap = iota
	tagTx
	tagRx
	tagKinds

	tagWake = -1
)

// pairsPerThread returns how many of so many queue pairs share a thread on so many CPUs: guests' CPUs have half of them.
func pairsPerThread(pairs, cpus int) int {
	threads := max(cpus/2, 1)
	return (pairs + threads - 1) / threads
}

// newThread makes a thread of workers that have none yet. It does not run yet.
func newThread(ws []*worker) (*thread, error) {
	t := &thread{workers: ws, epoll: -1, wake: -1, done: make(chan struct{})}
	if err := t.open(); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// open makes the epoll set, with the descriptors of all workers.
func (t *thread) open() (err error) {
	if t.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("make epoll: %w", err)
	}
	if t.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	wake := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: tagWake}
	if err := unix.EpollCtl(t.epoll, unix.EPOLL_CTL_ADD, t.wake, &wake); err != nil {
		return fmt.Errorf("watch eventfd: %w", err)
	}
	for i, w := range t.workers {
		w.thread, w.place = t, i
		if err := w.watch(); err != nil {
			return fmt.Errorf("%s: queue pair %d: %w", w.dev.cfg.ID, w.index, err)
		}
	}
	return nil
}

func (t *thread) close() {
	for _, fd := range []int{t.epoll, t.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// name is the thread's, as top shows it: net0/1, or net0/2-3.
func (t *thread) name() string {
	first, last := t.workers[0], t.workers[len(t.workers)-1]
	name := fmt.Sprintf("%s/%d", first.dev.cfg.ID, first.index)
	if last != first {
		name += fmt.Sprintf("-%d", last.index)
	}
	return name
}

// poke makes the thread look what is new.
func (t *thread) poke() {
	one := [8]byte{1}
	unix.Write(t.wake, one[:])
}

// run is the thread. It ends by stop, or when the guest's rings make no sense. Chains that workers held are back in the queues.
func (t *thread) run() {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	defer close(t.done)
	nameThread(t.name())
	punctual()
	debug.SetPanicOnFault(true) // guest memory whose backing file was cut
	env := t.workers[0].dev.env
	defer func() {
		if p := recover(); p != nil {
			env.Fail(fmt.Errorf("%s: panic: %v\n%s", t.name(), p, debug.Stack()))
		}
	}()
	defer func() {
		for _, w := range t.workers {
			w.giveBack()
		}
	}()
	if err := t.loop(); err != nil {
		env.Fail(err)
	}
}

// loop moves packets until stop.
func (t *thread) loop() error {
	t.begin()
	var events [8]unix.EpollEvent
	for !t.stopping.Load() {
		if err := t.turn(events[:]); err != nil {
			return err
		}
	}
	return nil
}

func (t *thread) begin() {
	for _, w := range t.workers {
		w.awake, w.tapReady = true, true
		w.disarm() // whoever had the queue before may have left kicks disabled: arm undoes that only after a disarm
	}
}

// turn moves what is there, and waits when there is nothing.
func (t *thread) turn(events []unix.EpollEvent) error {
	more, err := t.pass()
	if err != nil {
		return err
	}
	pause, n := time.Duration(0), 0
	if !more {
		if pause, more, err = t.arm(); err != nil {
			return err
		}
	}
	switch {
	case !more:
		n, err = t.wait(events, pause)
	case len(t.workers) > 1: // only a look, for what comes to those who sleep
		n, err = t.take(events, 0)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	t.note(events[:max(n, 0)])
	return nil
}

// pass gives each worker that is awake a turn. It reports whether one of them has more to do.
func (t *thread) pass() (more bool, err error) {
	for _, w := range t.workers {
		if w.poked.Load() {
			w.poked.Store(false)
			w.awake, w.tapReady, w.gone = true, true, false
		}
		if !w.awake {
			continue
		}
		m, err := w.pass()
		if err != nil {
			return false, err
		}
		more = more || m
	}
	return more, nil
}

// arm has workers that have nothing to do sleep until their driver kicks them or a packet comes. It returns the pause after which
// one wants to look again, and whether a driver was faster.
func (t *thread) arm() (pause time.Duration, more bool, err error) {
	for _, w := range t.workers {
		if !w.awake {
			continue
		}
		p := w.pauses.next()
		if w.arm(p == 0) {
			more = true
			continue
		}
		if err := w.listen(); err != nil {
			return 0, false, err
		}
		w.awake = p > 0
		if p > 0 && (pause == 0 || p < pause) {
			pause = p
		}
	}
	return pause, more, nil
}

// note wakes those whom events are for.
func (t *thread) note(events []unix.EpollEvent) {
	for _, e := range events {
		if e.Fd == tagWake {
			continue
		}
		w := t.workers[e.Fd/tagKinds]
		w.awake = true
		switch e.Fd % tagKinds {
		case tagTap:
			w.tapReady = true
		case tagRx:
			w.starved = false
		}
	}
	for _, w := range t.workers {
		if w.awake {
			w.disarm()
		}
	}
}

// wait returns events that came, within the pause where there is one.
func (t *thread) wait(events []unix.EpollEvent, pause time.Duration) (int, error) {
	if pause == 0 {
		return t.take(events, -1)
	}
	timeout := unix.NsecToTimespec(int64(pause))
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(t.epoll), Events: unix.POLLIN}}, &timeout, nil)
	if err != nil && err != unix.EINTR {
		return 0, fmt.Errorf("pause: %w", err)
	}
	if n < 1 {
		return 0, nil
	}
	return t.take(events, 0)
}

// take returns events that come within so many milliseconds, -1 for any time.
func (t *thread) take(events []unix.EpollEvent, timeout int) (int, error) {
	n, err := unix.EpollWait(t.epoll, events, timeout)
	if err != nil && err != unix.EINTR {
		return 0, fmt.Errorf("wait for packets: %w", err)
	}
	return n, nil
}
