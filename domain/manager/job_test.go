package manager

import "testing"

// TestJobSlot: who waits gets the slot in turn; who gave up does not, and what was given to one who gave up goes on.
func TestJobSlot(t *testing.T) {
	given := func(wait chan struct{}) bool {
		select {
		case <-wait:
			return true
		default:
			return false
		}
	}
	var s jobSlot
	if s.take() != nil {
		t.Fatal("a new slot is not free")
	}
	a, b, c, d := s.take(), s.take(), s.take(), s.take()
	if a == nil || given(a) {
		t.Fatal("a slot was given twice")
	}
	s.leave(b)
	s.free()
	if !given(a) || given(c) {
		t.Error("the first did not get it, or another did")
	}
	s.leave(a) // it was given, and nobody looked
	if !given(c) || given(b) || given(d) {
		t.Error("it did not go on to the next")
	}
	s.free()
	if !given(d) {
		t.Error("the last did not get it")
	}
	if s.free(); s.take() != nil {
		t.Error("it is not free")
	}
}
