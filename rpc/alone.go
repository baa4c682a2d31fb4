package rpc

import "sync/atomic"

// alone finds out whether one client is the only one that asks. Then a thread waits for its next call, which costs the least.
// Where several ask, the runtime's poller is better: one thread that wakes answers them all. It may be used by any goroutine,
// and now and then takes a client for alone that is not, which costs time and nothing else.
type alone struct {
	last   atomic.Uint64 // number of the connection that asked last
	streak atomic.Int64  // how many calls were its own, in a row
}

// aloneAfter is how many calls in a row make a client one that asks alone. Of several that ask at once, a few calls of one of
// them come together by chance.
const aloneAfter = 8

// asks notes a call that was answered at once, and reports whether its client asks alone.
func (a *alone) asks(c *Conn) bool {
	if a.last.Load() != c.number {
		a.last.Store(c.number)
		a.streak.Store(0)
		return false
	}
	return a.streak.Add(1) >= aloneAfter
}
