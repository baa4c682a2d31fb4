package monitor

import (
	"sync"
	"time"
)

// throttlePeriod is the least time between two events of a kind whose rate the guest decides. QEMU's is the same.
const throttlePeriod = time.Second

// throttle passes the first event of a period at once and the last one at its end.
type throttle struct {
	pass func(Event)

	mu      sync.Mutex
	timer   *time.Timer // runs while a period does
	waiting *Event
	closed  bool
}

func (t *throttle) put(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
	case t.timer != nil:
		t.waiting = &e
	default:
		t.timer = time.AfterFunc(throttlePeriod, t.end)
		t.pass(e)
	}
}

// end ends a period, and begins another one when there was something to pass.
func (t *throttle) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.waiting == nil {
		t.timer = nil
		return
	}
	e := *t.waiting
	t.waiting = nil
	t.timer = time.AfterFunc(throttlePeriod, t.end)
	t.pass(e)
}

// close passes what waits, so that the last word is out before the machine's end.
func (t *throttle) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
	if t.waiting != nil && !t.closed {
		t.pass(*t.waiting)
	}
	t.closed, t.waiting, t.timer = true, nil, nil
}
