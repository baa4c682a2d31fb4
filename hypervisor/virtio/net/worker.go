package net

import (
	"fmt"
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

// worker moves the packets of one queue pair, whenever its thread gives it a turn. Other goroutines talk to it by poke.
type worker struct {
	dev   *Device
	index int
	tap   *tap
	rx    *receiver    // nil where the driver did not enable the queue
	tx    *transmitter // likewise
	stats *counters

	thread    *thread // that runs it
	place     int     // among its workers
	listening bool    // packets of the tap wake the worker
	poked     atomic.Bool

	// Only the thread uses these.
	awake    bool // gets turns
	tapReady bool // the tap may have packets
	starved  bool // the driver owes receive buffers
	gone     bool // the tap is dead
	pauses   pauser
}

func (d *Device) newWorker(i int, rxq, txq *virtio.Queue) *worker {
	w := &worker{dev: d, index: i, tap: &d.taps[i], stats: &d.counters[i]}
	if rxq != nil {
		w.rx = d.newReceiver(rxq, w.tap)
	}
	if txq != nil {
		w.tx = newTransmitter(txq, w.tap)
	}
	return w
}

// watch adds the worker's descriptors to its thread's epoll set. All are edge-triggered: each signal of a doorbell is an edge, so
// the counter behind it need not be read.
func (w *worker) watch() error {
	members := []struct{ tag, fd int }{}
	if w.rx != nil || w.tap.stream != nil {
		members = append(members, struct{ tag, fd int }{tagTap, w.tap.fd})
	}
	if w.rx != nil {
		members = append(members, struct{ tag, fd int }{tagRx, w.rx.q.KickFD()})
	}
	if w.tx != nil {
		members = append(members, struct{ tag, fd int }{tagTx, w.tx.q.KickFD()})
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
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(w.place*tagKinds + tag)}
	if tag == tagTap {
		if !w.listening {
			ev.Events &^= unix.EPOLLIN
		}
		if w.tap.stream != nil {
			ev.Events |= unix.EPOLLOUT // it takes bytes again
		}
	}
	if err := unix.EpollCtl(w.thread.epoll, op, fd, &ev); err != nil {
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

// poke makes the worker look at everything again.
func (w *worker) poke() {
	w.poked.Store(true)
	w.thread.poke()
}

func (w *worker) giveBack() {
	if w.rx != nil && w.rx.q.Err() == nil {
		w.rx.giveBack()
	}
}

// pass gives each direction one budget, which keeps one from starving the other. It reports whether one of them has more to do.
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
