package block

import (
	"time"

	"golang.org/x/sys/unix"
)

// held are the requests that a loop keeps back because its image's throttle says so. They cost no thread: the loop waits for
// them as for everything else. Reads and writes are apart, so that none waits for the other's limit.
type held struct {
	by  *Throttle // whom the heads have reserved with
	way [2]struct {
		list
		due int64 // when the head may begin, by the throttle's clock
	}
	n int
}

// directionOf says which list a request waits in; -1 is for what no limit is about.
func directionOf(op *Op) int {
	switch op.Code {
	case Read:
		return 0
	case Write, WriteZeroes, Discard:
		return 1
	}
	return -1
}

// hold reports whether it keeps op back for t.
func (l *Loop) hold(t *Throttle, op *Op) bool {
	d := directionOf(op)
	if d < 0 {
		return false
	}
	if h := &l.held.way[d]; h.head != nil {
		h.push(op)
	} else {
		now := t.now()
		due := t.reserve(op, now)
		if due <= now {
			return false
		}
		l.retarget(t)
		h.due = due
		h.push(op)
	}
	l.held.n++
	return true
}

// retarget makes the heads that wait reserve with t, if they have with another.
func (l *Loop) retarget(t *Throttle) {
	if l.held.by == t {
		return
	}
	l.held.by = t
	for d := range l.held.way {
		if h := &l.held.way[d]; h.head != nil {
			h.due = t.reserve(h.head, t.now())
		}
	}
}

// release begins what is due and returns how long it is until the next request is; negative when none waits.
func (l *Loop) release() time.Duration {
	if l.stop.Load() {
		l.releaseAll()
		return -1
	}
	t := l.img.throttle.Load()
	if t == nil {
		l.releaseAll()
		return -1
	}
	l.retarget(t)
	now, next := t.now(), int64(-1)
	for d := range l.held.way {
		h := &l.held.way[d]
		for h.head != nil && h.due <= now {
			op := h.pop()
			l.held.n--
			if h.head != nil {
				h.due = t.reserve(h.head, now)
			}
			l.begin(op)
		}
		if h.head != nil && (next < 0 || h.due < next) {
			next = h.due
		}
	}
	if next < 0 {
		return -1
	}
	return time.Duration(max(next-now, 1))
}

// releaseAll begins all that waits: a machine that stands still has no request in the middle of its way. What they cost is
// poured in all the same, so that a guest gains nothing. After Cancel they end without having begun.
func (l *Loop) releaseAll() {
	t := l.img.throttle.Load()
	cancelled := l.stop.Load() && l.cancel.Load()
	for d := range l.held.way {
		h := &l.held.way[d]
		for first := true; h.head != nil; first = false {
			op := h.pop()
			l.held.n--
			if cancelled {
				op.Err = unix.ECANCELED
				l.done.push(op)
				continue
			}
			if t != nil && (!first || t != l.held.by) {
				t.reserve(op, t.now())
			}
			l.begin(op)
		}
	}
	l.held.by = nil
}
