package input

import (
	"errors"
	"fmt"
	"time"
)

// Limits of what waits.
const (
	MaxKeys    = 16          // of one stroke
	MaxHold    = time.Minute // of one stroke
	maxStrokes = 64
)

// ErrBusy is returned (wrapped) while so many strokes wait that no more are taken.
var ErrBusy = errors.New("too many keys wait for the guest")

// stroke is keys that are pressed in order and released in the other after a while.
type stroke struct {
	Keys []uint16      `json:"keys"`
	Hold time.Duration `json:"hold"`
}

// event is struct virtio_input_event (virtio 1.2, 5.8.6.1).
type event struct {
	kind, code uint16
	value      uint32
}

// typist turns strokes into events. It is used under the device's mu.
type typist struct {
	waiting []stroke
	out     []event  // that go next
	down    []uint16 // keys that are pressed, or are being
	hold    time.Duration
	until   time.Time // when they are released; zero as long as out holds their presses
}

// add takes one more stroke.
func (t *typist) add(s stroke) error {
	if len(s.Keys) == 0 || len(s.Keys) > MaxKeys {
		return fmt.Errorf("%d keys at once: 1 to %d can be pressed", len(s.Keys), MaxKeys)
	}
	if s.Hold < 0 || s.Hold > MaxHold {
		return fmt.Errorf("keys held for %v: the most is %v", s.Hold, MaxHold)
	}
	for _, k := range s.Keys {
		if k == 0 || k > MaxKey {
			return fmt.Errorf("key %d: a keyboard has 1 to %d", k, MaxKey)
		}
	}
	if len(t.waiting) >= maxStrokes {
		return ErrBusy
	}
	t.waiting = append(t.waiting, s)
	return nil
}

// next returns the event that goes now; nil when none does, and then when there will be one, zero for never.
func (t *typist) next(now time.Time) (e *event, at time.Time) {
	for len(t.out) == 0 {
		switch {
		case t.down != nil && t.until.IsZero(): // all presses have gone
			t.until = now.Add(t.hold)
		case t.down != nil && now.Before(t.until):
			return nil, t.until
		case t.down != nil:
			for i := len(t.down) - 1; i >= 0; i-- {
				t.report(t.down[i], 0)
			}
			t.down = nil
		case len(t.waiting) == 0:
			return nil, time.Time{}
		default:
			s := t.waiting[0]
			t.waiting = t.waiting[1:]
			for _, k := range s.Keys {
				t.report(k, 1)
			}
			t.down, t.hold, t.until = s.Keys, s.Hold, time.Time{}
		}
	}
	return &t.out[0], time.Time{}
}

// sent tells that the event that next returned has gone.
func (t *typist) sent() { t.out = t.out[1:] }

// report adds the change of one key, complete in itself, so that the order of modifiers is seen.
func (t *typist) report(key uint16, value uint32) {
	t.out = append(t.out, event{evKey, key, value}, event{kind: evSyn})
}
