package vhostuser

import (
	"sync"
	"time"
)

// A back end that comes and goes without end, or was told to, fills no log: lineBurst lines at once, then one each
// lineEvery.
const (
	lineBurst = 20
	lineEvery = 5 * time.Minute
)

// budget limits log lines. It is safe for concurrent use.
type budget struct {
	mu   sync.Mutex
	left int
	last time.Time // when a line was last added to left
}

func newBudget() budget { return budget{left: lineBurst, last: time.Now()} }

// take reports whether a line may be written.
func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := time.Since(b.last) / lineEvery; n > 0 {
		b.left = min(b.left+int(n), lineBurst)
		b.last = b.last.Add(n * lineEvery)
	}
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}
