package rng

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// source gives entropy.
type source interface {
	// read fills p as far as it can without waiting. When it returns 0 there is nothing now: what onReady set is
	// called when there is, or it is tried again at the time returned.
	read(p []byte) (int, time.Time)
	onReady(func())
	close() error
}

// kernel is getrandom(2), which never waits once the host has booted.
type kernel struct{}

func (kernel) read(p []byte) (int, time.Time) {
	n, err := unix.Getrandom(p, 0)
	if err != nil {
		return 0, time.Now().Add(time.Second)
	}
	return n, time.Time{}
}
func (kernel) onReady(func()) {}
func (kernel) close() error   { return nil }

// file reads a device or pipe, which may be slow, on a goroutine of its own: stopping the device never waits for it.
type file struct {
	f    *os.File
	name string
	logf func(format string, args ...any)

	mu     sync.Mutex
	ready  func()
	buf    []byte // what was read and not used
	asked  bool   // the reader is at work, or about to be
	failed bool   // reported
	retry  time.Time
	ask    chan struct{}
	done   chan struct{}
}

// retryAfter is how long a source that failed or ended is left alone.
const retryAfter = time.Second

func newFile(fd int, name string, logf func(string, ...any)) *file {
	unix.SetNonblock(fd, true) // the poller takes what it can wait for; others read blocking
	s := &file{f: os.NewFile(uintptr(fd), "entropy source"), name: name, logf: logf, ask: make(chan struct{}, 1), done: make(chan struct{})}
	go s.reader()
	return s
}

func (s *file) reader() {
	defer close(s.done)
	p := make([]byte, pieceSize)
	for range s.ask {
		n, err := s.f.Read(p)
		s.mu.Lock()
		s.buf, s.asked = append(s.buf[:0], p[:max(n, 0)]...), false
		if n <= 0 {
			s.retry = time.Now().Add(retryAfter)
			if !s.failed {
				s.failed = true
				s.logf("rng %s: the entropy source gives nothing: %v", s.name, err)
			}
		}
		ready := s.ready
		s.mu.Unlock()
		clear(p)
		if ready != nil {
			ready()
		}
	}
}

func (s *file) read(p []byte) (int, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := copy(p, s.buf); n > 0 {
		clear(s.buf[:n])
		s.buf = s.buf[n:]
		return n, time.Time{}
	}
	if time.Now().Before(s.retry) {
		return 0, s.retry
	}
	if !s.asked {
		s.asked = true
		s.ask <- struct{}{}
	}
	return 0, time.Time{}
}

func (s *file) onReady(f func()) {
	s.mu.Lock()
	s.ready = f
	s.mu.Unlock()
}

// close ends the reader as soon as its read returns; one that the poller waits for returns at once.
func (s *file) close() error {
	close(s.ask)
	return s.f.Close()
}
