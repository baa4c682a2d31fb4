package network

import (
	"sync"

	"github.com/google/uuid"
)

// Lifecycle is what happened to a network (virNetworkEventLifecycleType).
type Lifecycle int

// What can happen to a network.
const (
	Defined   Lifecycle = 0
	Undefined Lifecycle = 1
	Started   Lifecycle = 2
	Stopped   Lifecycle = 3
)

// Event is something that happened to a network.
type Event struct {
	Name string
	UUID uuid.UUID
	Type Lifecycle
}

// bus carries events from under the manager's lock to subscribers, in order.
type bus struct {
	mu      sync.Mutex
	wake    sync.Cond
	queue   []Event
	closed  bool
	done    chan struct{}
	deliver sync.Mutex // held while subscribers are called
	subs    map[int]func(Event)
	next    int
}

func newBus() *bus {
	b := &bus{subs: map[int]func(Event){}, done: make(chan struct{})}
	b.wake.L = &b.mu
	go b.run()
	return b
}

// emit queues an event; it never blocks on subscribers.
func (b *bus) emit(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.queue = append(b.queue, e)
		b.wake.Signal()
	}
}

func (b *bus) subscribe(f func(Event)) func() {
	b.deliver.Lock()
	defer b.deliver.Unlock()
	id := b.next
	b.next++
	b.subs[id] = f
	return func() {
		b.deliver.Lock()
		defer b.deliver.Unlock()
		delete(b.subs, id)
	}
}

func (b *bus) run() {
	defer close(b.done)
	for {
		b.mu.Lock()
		for len(b.queue) == 0 && !b.closed {
			b.wake.Wait()
		}
		batch := b.queue
		b.queue = nil
		b.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		b.deliver.Lock()
		for _, e := range batch {
			for _, f := range b.subs {
				f(e)
			}
		}
		b.deliver.Unlock()
	}
}

// close delivers what is queued and ends the bus.
func (b *bus) close() {
	b.mu.Lock()
	b.closed = true
	b.wake.Signal()
	b.mu.Unlock()
	<-b.done
}
