package block

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block/qcow2"
)

// Modes of a Loop.
const (
	ModeUring = "io_uring"
	ModePool  = "threads"
)

// LoopConfig describes a Loop.
type LoopConfig struct {
	Name  string // of its thread, up to 15 bytes
	Depth int    // most requests in flight
	IO    string // "", "native" and "io_uring" take io_uring where the host has it; "threads" does not
}

// Loop is the thread that serves one queue. NewLoop makes thread and ring; Start runs a function on it, in which Submit,
// Next, Wait, InFlight and Stopping may be called; Stop ends the function. Start, Stop and Close are called by one
// goroutine at a time.
type Loop struct {
	img     *Image
	cfg     LoopConfig
	eng     engine
	slow    *pool         // for what a format does in steps; may be eng
	reader  *qcow2.Reader // nil without a format
	mode    string
	why     error // why not io_uring
	wake    int   // eventfd: Stop, and pool threads
	kick    int   // the doorbell, while started
	stop    atomic.Bool
	done    list
	flight  int
	held    held
	cancel  atomic.Bool // with stop: what is held back ends without having begun
	broken  error
	started bool
	work    chan func()
	idle    chan struct{}
	ended   chan struct{}
}

// engine runs requests that wait for a device. Its methods are called on the loop's thread.
type engine interface {
	// arm and disarm set the doorbell to wait for.
	arm(kick int)
	disarm()
	// start runs op.
	start(op *Op)
	// wait hands over what start queued, and waits until a request completes, the doorbell rings, the loop is woken or
	// the time is over; forever knows no time and 0 does not wait. Completed requests went through Loop.finish.
	wait(limit time.Duration) error
	// interrupt signals an eventfd with the next wait, if the engine can. It reports whether it will.
	interrupt(eventfd int) bool
	close()
}

// forever is a wait without a limit.
const forever time.Duration = -1

// NewLoop makes a loop for img. It must come before the engine denies itself io_uring_setup.
func NewLoop(img *Image, cfg LoopConfig) (*Loop, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create the eventfd of %s: %w", cfg.Name, err)
	}
	l := &Loop{img: img, cfg: cfg, wake: wake, kick: -1, work: make(chan func()), idle: make(chan struct{}, 1), ended: make(chan struct{})}
	ready := make(chan struct{})
	go l.thread(ready)
	<-ready
	return l, nil
}

// thread is the loop's life. The ring belongs to the thread that makes it.
func (l *Loop) thread(ready chan struct{}) {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	defer close(l.ended)
	nameThread(l.cfg.Name)
	if l.cfg.IO != "threads" {
		var e *uringEngine
		if e, l.why = newUringEngine(l); l.why == nil {
			l.eng, l.mode = e, ModeUring
		}
	}
	if l.eng == nil {
		l.eng, l.mode = newPool(l), ModePool
	}
	if l.img.format != nil {
		l.reader = l.img.format.q.NewReader()
		if p, ok := l.eng.(*pool); ok {
			l.slow = p
		} else {
			l.slow = newPool(l)
		}
	}
	close(ready)
	for fn := range l.work {
		l.eng.arm(l.kick)
		fn()
		for l.drain(); l.flight > 0 && l.broken == nil; l.drain() { // a function that failed leaves requests behind
			l.Wait()
		}
		l.eng.disarm()
		l.idle <- struct{}{}
	}
	l.eng.close()
	if l.slow != nil && l.slow != l.eng {
		l.slow.close()
	}
}

func (l *Loop) drain() {
	for l.Next() != nil {
	}
}

// Mode is ModeUring or ModePool; for the latter err says why, nil if it was asked for.
func (l *Loop) Mode() (mode string, err error) { return l.mode, l.why }

// Start runs fn on the loop's thread. fn waits for kickFD, an eventfd, with Wait, and returns soon after Stopping
// becomes true. Requests that it leaves in flight are waited for.
func (l *Loop) Start(kickFD int, fn func()) {
	l.cancel.Store(false)
	l.stop.Store(false)
	l.kick, l.started = kickFD, true
	l.work <- fn
}

// Cancel is Stop for a device that is reset: requests that the throttle holds back end with ECANCELED, without having begun.
func (l *Loop) Cancel() {
	l.cancel.Store(true)
	l.Stop()
}

// Stop makes the running function end and waits for it and for all requests in flight. Those that the throttle holds back
// begin at once.
func (l *Loop) Stop() {
	if !l.started {
		return
	}
	l.stop.Store(true)
	l.Wake()
	<-l.idle
	l.started, l.kick = false, -1
}

// Wake ends a Wait, now or the next. Any goroutine may call it.
func (l *Loop) Wake() { unix.Write(l.wake, eventOne) }

var eventOne = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// Close ends the thread and releases the ring.
func (l *Loop) Close() {
	l.Cancel()
	close(l.work)
	<-l.ended
	unix.Close(l.wake)
}

// Stopping reports whether Stop was called.
func (l *Loop) Stopping() bool { return l.stop.Load() }

// InFlight is the number of Ops submitted that Next did not return yet.
func (l *Loop) InFlight() int { return l.flight }

// Submit begins op. It may complete at once; Next returns it then. The caller keeps to Depth.
func (l *Loop) Submit(op *Op) {
	op.state, op.Err, op.stage = 0, 0, stageMain
	op.file, op.at, op.slow, op.held = l.img, op.Off, false, false
	l.flight++
	if t := l.img.throttle.Load(); t != nil && l.hold(t, op) {
		return
	}
	l.begin(op)
}

// begin sends op on its way to the host.
func (l *Loop) begin(op *Op) {
	if op.Code == Write && l.img.opts.DetectZeroes != "" && l.img.opts.DetectZeroes != DetectOff && allZero(op.Iov) {
		op.Code, op.Unmap = WriteZeroes, l.img.opts.DetectZeroes == DetectUnmap
	}
	if l.img.format != nil && !l.place(op) {
		return
	}
	if op.file.immediate(op) {
		op.file.perform(op)
		l.finish(op)
		return
	}
	l.eng.start(op)
}

// immediate reports whether op waits for nothing but memory, so that doing it here is cheaper than anything else.
func (img *Image) immediate(op *Op) bool {
	switch {
	case img.inRAM:
		return true
	case op.Code == Flush:
		return img.opts.Cache == CacheUnsafe
	case op.Code == Discard:
		return !img.opts.Discard || img.noPunch.Load()
	case op.Code == Write:
		return !img.direct && !op.Durable && op.Len <= maxImmediate
	}
	return false
}

// maxImmediate is the largest buffered write that is copied on the loop's thread.
const maxImmediate = 256 << 10

// finish is called by engines when op is complete.
func (l *Loop) finish(op *Op) {
	if op.held {
		l.reader.Leave(op.epoch)
	}
	l.done.push(op)
}

// Next returns a completed Op, or nil.
func (l *Loop) Next() *Op {
	op := l.done.pop()
	if op != nil {
		l.flight--
	}
	return op
}

// Wait submits what was queued and blocks until an Op completes, the doorbell rings, Wake or Stop is called, a request that
// was held back may begin, or a signal arrives. It does not block when there is something for Next. An error means that the loop is of no more use.
func (l *Loop) Wait() error { return l.turn(true) }

// Poll is Wait that does not block.
func (l *Loop) Poll() error { return l.turn(false) }

func (l *Loop) turn(block bool) error {
	limit := time.Duration(0)
	if block {
		limit = forever
	}
	if l.held.n > 0 {
		if next := l.release(); block {
			limit = next
		}
	}
	if l.done.head != nil {
		limit = 0
	}
	if l.broken == nil {
		l.broken = l.eng.wait(limit)
	}
	if l.slow != nil && l.slow != l.eng {
		l.slow.collect()
	}
	return l.broken
}

// Interrupt signals eventfd together with the next Wait or Poll, which saves a system call. It reports false when the
// caller must do it.
func (l *Loop) Interrupt(eventfd int) bool { return l.eng.interrupt(eventfd) }
