package eventbus

import "sync"

// Bus carries events of one type. All methods may be called from any goroutine.
type Bus[T any] struct {
	mu     sync.Mutex
	wake   sync.Cond
	queue  []T
	heard  int // subscribers
	closed bool

	emitted, delivered uint64
	progress           sync.Cond // delivered changed

	done    chan struct{}
	deliver sync.Mutex // held while subscribers are called
	subs    map[int]func(T)
	next    int
}

// New starts a bus. Close ends it and its goroutine.
func New[T any]() *Bus[T] {
	b := &Bus[T]{subs: map[int]func(T){}, done: make(chan struct{})}
	b.wake.L, b.progress.L = &b.mu, &b.mu
	go b.run()
	return b
}

// Emit queues an event; it never waits for subscribers, so that it may be called under locks. Without a subscriber and
// after Close it does nothing.
func (b *Bus[T]) Emit(e T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.heard > 0 && !b.closed {
		b.queue = append(b.queue, e)
		b.emitted++
		b.wake.Signal()
	}
}

// Flush returns when every event that was emitted before it has been delivered. It must not be called by a subscriber.
func (b *Bus[T]) Flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for until := b.emitted; b.delivered < until; {
		b.progress.Wait()
	}
}

// Subscribe calls f with every event that is emitted from now on, in order, one at a time, and perhaps with some that were
// emitted before and not delivered yet. f must not block. The returned function ends the subscription and returns after the
// last call of f has; it must not be called from f.
func (b *Bus[T]) Subscribe(f func(T)) (cancel func()) {
	b.deliver.Lock()
	defer b.deliver.Unlock()
	id := b.next
	b.next++
	b.subs[id] = f
	b.count(1)
	return sync.OnceFunc(func() {
		b.count(-1)
		b.deliver.Lock()
		defer b.deliver.Unlock()
		delete(b.subs, id)
	})
}

func (b *Bus[T]) count(more int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard += more
}

func (b *Bus[T]) run() {
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
		b.mu.Lock()
		b.delivered += uint64(len(batch))
		b.progress.Broadcast()
		b.mu.Unlock()
	}
}

// Close delivers what is queued and ends the bus. It may be called once.
func (b *Bus[T]) Close() {
	b.mu.Lock()
	b.closed = true
	b.wake.Signal()
	b.mu.Unlock()
	<-b.done
}
