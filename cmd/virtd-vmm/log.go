package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// The engine's log is stderr. What a guest does can cause lines, so they are limited: a burst, then some a minute, with
// a note of how many were left out.
const (
	logBurst    = 100
	logInterval = 2 * time.Second // for each further line
)

var logState struct {
	sync.Mutex
	tokens  int
	last    time.Time
	dropped int
}

// logf writes one line.
func logf(format string, args ...any) {
	s := &logState
	s.Lock()
	defer s.Unlock()
	now := time.Now()
	if s.last.IsZero() {
		s.tokens, s.last = logBurst, now
	}
	if n := int(now.Sub(s.last) / logInterval); n > 0 {
		s.tokens = min(s.tokens+n, logBurst)
		s.last = s.last.Add(time.Duration(n) * logInterval)
	}
	if s.tokens == 0 {
		s.dropped++
		return
	}
	s.tokens--
	stamp := now.UTC().Format("2006-01-02T15:04:05.000Z")
	if s.dropped > 0 {
		fmt.Fprintf(os.Stderr, "%s virtd-vmm: %d lines left out\n", stamp, s.dropped)
		s.dropped = 0
	}
	fmt.Fprintf(os.Stderr, stamp+" virtd-vmm: "+format+"\n", args...)
}
