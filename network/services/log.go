package services

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// limitedLog writes lines that guests cause. It bounds how many, and how large the log becomes: guests decide how often they
// do what is worth a line.
type limitedLog struct {
	mu      sync.Mutex
	out     io.Writer
	now     func() time.Time
	left    int
	refill  time.Time
	dropped int
	written int
}

// Bounds of a log.
const (
	linesPerMinute = 20
	maxLogBytes    = 1 << 20 // in the life of one child
)

func (l *limitedLog) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if now.After(l.refill) {
		l.left, l.refill = linesPerMinute, now.Add(time.Minute)
		if l.dropped > 0 {
			l.line(now, fmt.Sprintf("%d more lines like these were left out", l.dropped))
			l.dropped = 0
		}
	}
	if l.left == 0 || l.written > maxLogBytes {
		l.dropped++
		return
	}
	l.left--
	l.line(now, fmt.Sprintf(format, args...))
}

func (l *limitedLog) line(now time.Time, text string) {
	n, err := fmt.Fprintf(l.out, "%s %.500q\n", now.UTC().Format(time.RFC3339), text)
	if err == nil {
		l.written += n
	}
}
