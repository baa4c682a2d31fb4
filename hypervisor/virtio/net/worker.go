package net

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
)

// Packets moved in one go before the other direction has its turn.
const (
	txBudget = 64
	rxBudget = 64
)

// worker moves the packets of one queue pair on a thread of its own, from start to stop. Other goroutines talk to it by
// the atomic fields and poke.
type worker struct {
	dev   *Device
	index int
	tap   *tap
	rx    *receiver    // nil where the driver did not enable the queue
	tx    *transmitter // likewise
	stats *counters

	epoll, wake int  // descriptors of the worker
	listening   bool // packets of the tap wake the worker
	stopping    atomic.Bool
	poked       atomic.Bool
	done        chan struct{}

	// Only the thread uses these.
	tapReady bool // the tap may have packets
	starved  bool // the driver owes receive buffers
	gone     bool // the tap is dead
	pauses   pauser
}

// Epoll tags.
const (
	tagTap = iota
	tagTx
	tagRx
	tagWake
)

func (d *Device) newWorker(i int, rxq, txq *virtio.Queue) (*worker, error) {
	w := &worker{dev: d, index: i, tap: &d.taps[i], stats: &d.counters[i], epoll: -1, wake: -1, done: make(chan struct{})}
	if rxq != nil {
		w.rx = d.newReceiver(rxq, w.tap)
	}
	if txq != nil {
		w.tx = newTransmitter(txq, w.tap)
	}
	if err := w.watch(rxq, txq); err != nil {
		w.close()
		return nil, fmt.Errorf("%s: queue pair %d: %w", d.cfg.ID, i, err)
	}
	return w, nil
}

// watch makes the epoll set. All members are edge-triggered: each signal of a doorbell is an edge, so the counter behind
// it need not be read.
func (w *worker) watch(rxq, txq *virtio.Queue) (err error) {
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("make epoll: %w", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	members := []struct{ tag, fd int }{{tagWake, w.wake}}
	if rxq != nil || w.tap.stream != nil {
		members = append(members, struct{ tag, fd int }{tagTap, w.tap.fd})
	}
	if rxq != nil {
		members = append(members, struct{ tag, fd int }{tagRx, rxq.KickFD()})
	}
	if txq != nil {
		members = append(members, struct{ tag, fd int }{tagTx, txq.KickFD()})
	}
	w.listening = true
	for _, m := range members {
		if err := w.control(unix.EPOLL_CTL_ADD, m.tag, m.fd); err != nil {
			return err
		}
	}
	return nil
}

// control adds a member to the epoll set, or changes what is waited for.
func (w *worker) control(op, tag, fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(tag)}
	if tag == tagTap {
		if !w.listening {
			ev.Events &^= unix.EPOLLIN
		}
		if w.tap.stream != nil {
			ev.Events |= unix.EPOLLOUT // it takes bytes again
		}
	}
	if err := unix.EpollCtl(w.epoll, op, fd, &ev); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

// listen has packets of the tap wake the worker, or not while it could do nothing with them: each would. Those that came
// meanwhile wake it then.
func (w *worker) listen() error {
	if w.rx == nil || w.listening == !w.starved {
		return nil
	}
	w.listening = !w.starved
	return w.control(unix.EPOLL_CTL_MOD, tagTap, w.tap.fd)
}

func (w *worker) close() {
	for _, fd := range []int{w.epoll, w.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// poke makes the worker look at everything again.
func (w *worker) poke() {
	w.poked.Store(true)
	one := [8]byte{1}
	unix.Write(w.wake, one[:])
}

// stop ends the worker and waits for it. Chains it held are back in the queue.
func (w *worker) stop() {
	w.stopping.Store(true)
	w.poke()
	<-w.done
	w.close()
}

// run is the thread. It ends by stop or when the guest's rings make no sense.
func (w *worker) run() {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	defer close(w.done)
	defer w.giveBack()
	nameThread(fmt.Sprintf("%s/%d", w.dev.cfg.ID, w.index))
	punctual()
	debug.SetPanicOnFault(true) // guest memory whose backing file was cut
	defer func() {
		if p := recover(); p != nil {
			w.dev.env.Fail(fmt.Errorf("queue pair %d: panic: %v\n%s", w.index, p, debug.Stack()))
		}
	}()
	if err := w.loop(); err != nil {
		w.dev.env.Fail(err)
	}
}

func (w *worker) giveBack() {
	if w.rx != nil && w.rx.q.Err() == nil {
		w.rx.giveBack()
	}
}

// loop moves packets until stop. Budgets keep one direction from starving the other.
func (w *worker) loop() error {
	w.tapReady = true
	w.disarm() // whoever had the queue before may have left kicks disabled: arm undoes that only after a disarm
	var events [4]unix.EpollEvent
	for !w.stopping.Load() {
		if w.poked.Load() {
			w.poked.Store(false)
			w.tapReady, w.gone = true, false
		}
		more, err := w.pass()
		if err != nil {
			return err
		}
		if more {
			continue
		}
		pause := w.pauses.next()
		if w.arm(pause == 0) {
			continue
		}
		if err := w.listen(); err != nil {
			return err
		}
		n, err := w.wait(events[:], pause)
		if err != nil {
			return err
		}
		w.disarm()
		for i := range max(n, 0) {
			switch events[i].Fd {
			case tagTap:
				w.tapReady = true
			case tagRx:
				w.starved = false
			}
		}
	}
	return nil
}

// wait returns events that came, within the pause where there is one.
func (w *worker) wait(events []unix.EpollEvent, pause time.Duration) (int, error) {
	most := -1
	if pause > 0 {
		t := unix.NsecToTimespec(int64(pause))
		n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(w.epoll), Events: unix.POLLIN}}, &t, nil)
		if err != nil && err != unix.EINTR {
			return 0, fmt.Errorf("pause: %w", err)
		}
		if n < 1 {
			return 0, nil
		}
		most = 0
	}
	n, err := unix.EpollWait(w.epoll, events, most)
	if err != nil && err != unix.EINTR {
		return 0, fmt.Errorf("wait for packets: %w", err)
	}
	return n, nil
}

// pass gives each direction one budget. It reports whether one of them has more to do.
func (w *worker) pass() (more bool, err error) {
	drop := w.dev.linkDown.Load()
	if w.tx != nil {
		if more, err = w.passTx(drop); err != nil {
			return false, err
		}
	}
	if more && w.rx != nil { // no sleep, so no event tells about the other direction
		w.tapReady = true
		w.starved = w.starved && !w.rx.q.Pending()
	}
	if w.rx == nil || w.gone || !w.tapReady {
		return more, nil
	}
	var s Stats
	result := rxDrained
	switch {
	case drop:
		w.starved = false // packets go without buffers
		result = w.rx.discard(rxBudget, &s)
	case !w.starved:
		if result, err = w.rx.receive(rxBudget, &s); err != nil {
			return false, err
		}
		w.rx.q.Notify()
	default:
		return more, nil
	}
	w.stats.addRx(&s)
	w.pauses.receive(s.RxPackets)
	switch result {
	case rxMore:
		more = true
	case rxDrained:
		w.tapReady = false
	case rxStarved:
		w.starved = true
	case rxGone:
		w.tapGone()
	}
	return more, nil
}

func (w *worker) passTx(drop bool) (bool, error) {
	var s Stats
	var begin time.Time
	if w.pauses.pausing {
		begin = time.Now()
	}
	more, gone, err := w.tx.transmit(txBudget, drop || w.gone, &s)
	if err != nil {
		return false, err
	}
	w.tx.q.Notify()
	w.stats.addTx(&s)
	var took time.Duration
	if w.pauses.pausing {
		took = time.Since(begin)
	}
	w.pauses.send(s.TxPackets, took)
	if gone {
		w.tapGone()
	}
	return more, nil
}

// arm asks for kicks where the worker waits for the driver: not for those of packets that it looks for after a pause. It reports
// whether the driver was faster.
func (w *worker) arm(tx bool) (more bool) {
	if tx && w.tx != nil && !w.tx.blocked && w.tx.q.EnableKicks() {
		more = true
	}
	if w.starved && w.rx.q.EnableKicks() {
		w.starved, more = false, true
	}
	return more
}

// disarm keeps the driver from kicking while the worker runs anyway.
func (w *worker) disarm() {
	if w.tx != nil {
		w.tx.q.DisableKicks()
	}
	if w.rx != nil && !w.starved {
		w.rx.q.DisableKicks()
	}
}

// tapGone deals with a queue that the kernel does not connect to a device: one that the driver does not use at present,
// or one whose device was deleted on the host.
func (w *worker) tapGone() {
	w.gone, w.tapReady = true, false
	if w.dev.uses(w.index) {
		w.dev.reportGone(w.tap)
	}
}
