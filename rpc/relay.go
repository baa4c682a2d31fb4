package rpc

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// relay lets the reader of a connection answer a call that takes a moment, as a rule, but may have to wait for a disk or for
// another call. When one takes longer, another goroutine reads on, and what comes behind it is not held up.
//
// begin and end are the reader's; look comes by while there are such calls.
type relay struct {
	conn    *Conn
	call    atomic.Pointer[Call] // that the reader is answering; nil: it reads
	begun   atomic.Uint64        // how many there were
	looking atomic.Bool          // the timer is set, or look is under way
	before  uint64               // begun, when look came by last

	mu      sync.Mutex // guards what follows
	timer   *time.Timer
	stopped bool
}

// relayPeriod is how often look comes by. A call that it meets twice is one that takes longer.
const relayPeriod = 5 * time.Millisecond

// errHandedOn ends a reader's loop when another goroutine reads on.
var errHandedOn = errors.New("another goroutine reads on")

// begin notes the call that the reader is about to answer.
func (r *relay) begin(c *Call) {
	r.begun.Add(1) // first: look shall not take this call for the one before
	r.call.Store(c)
	r.watch()
}

// end reports whether the goroutine that began the call is the reader still.
func (r *relay) end(c *Call) bool { return r.call.CompareAndSwap(c, nil) }

// watch has look come by, if it does not yet.
func (r *relay) watch() {
	if !r.looking.Load() && !r.looking.Swap(true) {
		r.again()
	}
}

// again sets the timer.
func (r *relay) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stopped:
	case r.timer == nil:
		r.timer = time.AfterFunc(relayPeriod, r.look)
	default:
		r.timer.Reset(relayPeriod)
	}
}

// look hands reading on when the reader answers the same call as the last time, and ends looking when there was none since.
func (r *relay) look() {
	call := r.call.Load()
	begun := r.begun.Load() // then: one that begins in between is not taken for call
	switch {
	case begun != r.before:
		r.before = begun
	case call != nil:
		if r.call.CompareAndSwap(call, nil) {
			go r.conn.readOn()
		}
	default:
		r.looking.Store(false)
		if r.begun.Load() != begun { // one began that counted on this
			r.watch()
		}
		return
	}
	r.again()
}

// stop ends looking for good, when nobody reads any more.
func (r *relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.timer != nil {
		r.timer.Stop()
	}
}
