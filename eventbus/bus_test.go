package eventbus_test

import (
	"slices"
	"sync"
	"testing"

	"virtd/eventbus"
)

// Events of each emitter arrive in order, all of them, also those that Close finds in the queue.
func TestOrder(t *testing.T) {
	const emitters, each = 4, 500
	b := eventbus.New[[2]int]()
	var got [emitters][]int
	b.Subscribe(func(e [2]int) { got[e[0]] = append(got[e[0]], e[1]) })
	var wg sync.WaitGroup
	for i := range emitters {
		wg.Go(func() {
			for n := range each {
				b.Emit([2]int{i, n})
			}
		})
	}
	wg.Wait()
	b.Close()
	b.Emit([2]int{0, each}) // too late
	for i := range got {
		if len(got[i]) != each || !slices.IsSorted(got[i]) {
			t.Errorf("of emitter %d arrived %d of %d events, sorted: %v", i, len(got[i]), each, slices.IsSorted(got[i]))
		}
	}
}

// Emit does not wait for a subscriber, and cancel does: after it no call is under way.
func TestSlowSubscriber(t *testing.T) {
	b := eventbus.New[int]()
	started, release := make(chan struct{}), make(chan struct{})
	var ended bool
	cancel := b.Subscribe(func(e int) {
		if e == 1 {
			close(started)
			<-release
			ended = true
		}
	})
	b.Emit(1)
	<-started
	b.Emit(2) // returns although the subscriber hangs
	close(release)
	cancel()
	if !ended {
		t.Error("cancel returned before the subscriber did")
	}
	b.Emit(1) // would close started again
	b.Close()
}

// What nobody hears is not kept for those who come later.
func TestNobodyListens(t *testing.T) {
	b := eventbus.New[int]()
	var got []int
	b.Emit(1)
	first := b.Subscribe(func(e int) { got = append(got, e) })
	b.Emit(2)
	second := b.Subscribe(func(int) {})
	second()
	second() // more than once is once
	b.Emit(3)
	b.Close()
	first()
	if !slices.Equal(got, []int{2, 3}) {
		t.Errorf("got %v", got)
	}
}

// What was emitted before Flush has been heard after it, also when the bus was closed meanwhile.
func TestFlush(t *testing.T) {
	b := eventbus.New[int]()
	b.Flush()
	got, heard := 0, make(chan struct{})
	b.Subscribe(func(e int) {
		if e == 1 {
			<-heard
		}
		got = e
	})
	for e := range 4 {
		b.Emit(e)
	}
	go close(heard)
	b.Flush()
	if got != 3 {
		t.Errorf("after Flush the last event was %d", got)
	}
	b.Close()
	b.Flush()
}
