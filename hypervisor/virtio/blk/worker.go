package blk

import (
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio"
)

// worker serves one virtqueue on the thread of its loop.
type worker struct {
	counters counters // first, so that it is aligned wherever a worker is

	d         *Device
	loop      *block.Loop
	q         *virtio.Queue
	env       *virtio.Env
	features  uint64
	requests  []*request // by Op.Tag; grows to the queue's size
	free      *request
	interrupt func(fd int) bool
}

func newWorker(d *Device, loop *block.Loop) *worker {
	return &worker{d: d, loop: loop, interrupt: loop.Interrupt}
}

// prepare sets the queue of the next run.
func (w *worker) prepare(env *virtio.Env, q *virtio.Queue) {
	w.env, w.q, w.features = env, q, env.Features
}

// run serves the queue until the loop is stopped and every request was answered. One system call both submits and waits:
// it ends when a request completes, the doorbell rings or the loop is stopped.
func (w *worker) run() {
	defer w.env.Guard()
	broken := false
	for {
		stopping := w.loop.Stopping()
		if !broken && !stopping {
			w.q.DisableKicks()
			if err := w.take(); err != nil {
				w.env.Fail(err)
				broken = true
			}
		}
		w.reap()
		if stopping && w.loop.InFlight() == 0 {
			w.loop.Poll() // a queued interrupt
			return
		}
		more := !broken && !stopping && w.room() && w.q.EnableKicks()
		var err error
		if more {
			err = w.loop.Poll()
		} else {
			err = w.loop.Wait()
		}
		if err != nil {
			w.env.Fail(err)
			return
		}
	}
}

// room reports whether another request can be taken.
func (w *worker) room() bool { return w.free != nil || len(w.requests) < int(w.q.Size()) }

// take moves every available chain to the image, as far as there are requests to hold them.
func (w *worker) take() error {
	now := uint64(0)
	// A driver may add requests as fast as they are refused, so that a round has an end.
	for n := w.q.Size(); n > 0 && w.room(); n-- {
		r := w.get()
		ok, err := w.q.Pop(&r.chain)
		if err != nil || !ok {
			w.put(r)
			return err
		}
		status, done, err := w.d.parse(r, w.features)
		if err != nil {
			w.put(r)
			return err
		}
		if done {
			w.answer(r, status)
			continue
		}
		if now == 0 {
			now = w.now()
		}
		r.start = now
		w.loop.Submit(&r.op)
	}
	return nil
}

// reap answers what completed and interrupts the driver once.
func (w *worker) reap() {
	now := uint64(0)
	for op := w.loop.Next(); op != nil; op = w.loop.Next() {
		if now == 0 {
			now = w.now()
		}
		r, status := w.requests[op.Tag], byte(statusOK)
		if op.Err == unix.ECANCELED && w.loop.Stopping() { // by a reset: the driver hears nothing of it any more
			w.put(r)
			continue
		}
		if op.Err != 0 {
			status = statusIOErr
			w.d.report(op)
		} else {
			w.counters.count(r, now-r.start)
		}
		w.answer(r, status)
	}
	w.q.NotifyBy(w.interrupt)
}

// answer writes the status last and gives the chain back.
func (w *worker) answer(r *request, status byte) {
	if status != statusOK {
		w.counters.errors.Add(1)
	}
	*r.status = status
	if status != statusOK {
		r.chain.MarkDirtyRange(r.chain.WriteLen-1, 1)
	} else if r.written == 1 && r.chain.WriteLen > 1 {
		r.chain.MarkDirtyRange(r.chain.WriteLen-1, 1)
	}
	w.q.PushChain(&r.chain, r.written)
	w.put(r)
}

func (w *worker) now() uint64 { return uint64(time.Since(w.d.started)) }

func (w *worker) get() *request {
	if r := w.free; r != nil {
		w.free = r.next
		return r
	}
	r := &request{}
	r.op.Tag = len(w.requests)
	w.requests = append(w.requests, r)
	return r
}

func (w *worker) put(r *request) {
	r.next, w.free = w.free, r
}
