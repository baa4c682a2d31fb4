package rpc

import (
	"context"
	"sync"
)

// The lanes of a connection. A call waits only behind others of its lane: five starts that hang hold up neither questions nor
// the destroy that ends them.
const (
	laneChanges  = iota // calls that change something
	laneQueries         // calls that only look; statistics can take as long as an engine takes to answer
	lanePriority        // what libvirt says must not wait behind an engine
	lanes
)

func laneOf(p *Procedure) int {
	switch {
	case p.Priority:
		return lanePriority
	case p.ReadOnly:
		return laneQueries
	}
	return laneChanges
}

// lane runs the calls of one kind of one connection, some in parallel, and holds a bounded number of further ones.
type lane struct {
	mu      sync.Mutex
	room    sync.Cond
	running int
	limit   int // calls in parallel
	waiting []*Call
	bytes   int // of the arguments of those that wait
	depth   int // calls that may wait; the reader of the connection waits beyond that
	closed  bool
}

// waitingBytes is how many bytes of arguments may wait; the reader of the connection waits beyond that too.
const waitingBytes = 1 << 20

func newLane(limit, depth int) *lane {
	l := &lane{limit: limit, depth: depth}
	l.room.L = &l.mu
	return l
}

// submit takes a call. It blocks when too many are waiting already: that stops reading from a client that floods.
func (l *lane) submit(ctx context.Context, c *Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.running >= l.limit && (len(l.waiting) >= l.depth || l.bytes >= waitingBytes) && !l.closed {
		l.room.Wait()
	}
	if l.closed {
		c.discard()
		return
	}
	c.Conn.tasks.Add(1)
	if l.running >= l.limit {
		l.waiting = append(l.waiting, c)
		l.bytes += c.size
		return
	}
	l.running++
	go l.work(ctx, c)
}

// enter takes in a call that the caller runs, who calls next after it. It reports false when others run.
func (l *lane) enter(c *Call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.running > 0 {
		return false
	}
	l.running++
	c.Conn.tasks.Add(1)
	return true
}

// work runs a call and then those that wait.
func (l *lane) work(ctx context.Context, c *Call) {
	for c != nil {
		c.run(ctx)
		c.Conn.tasks.Done()
		c = l.next()
	}
}

// next ends a call that ran, and returns the one that is to run in its place, if any waits.
func (l *lane) next() *Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room.Signal()
	if len(l.waiting) == 0 {
		l.running--
		return nil
	}
	c := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	l.bytes -= c.size
	return c
}

// close drops the calls that wait. Those that run go on.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.waiting {
		c.discard()
		c.Conn.tasks.Done()
	}
	l.waiting = nil
	l.room.Broadcast()
}

// discard releases what a call that never runs holds.
func (c *Call) discard() {
	for _, f := range c.Files {
		f.Close()
	}
}
