package virtiotest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/interrupt"
)

// Interrupts is an interrupt.Controller and a set of interrupt.Doorbells in memory.
type Interrupts struct {
	t         testing.TB
	mu        sync.Mutex
	open      int // MSIs not closed
	doorbells map[uint64]int
	Line0     Line // what every Line call returns
	BindError error
}

// NewInterrupts returns an empty controller.
func NewInterrupts(t testing.TB) *Interrupts {
	return &Interrupts{t: t, doorbells: map[uint64]int{}}
}

// Open returns how many MSIs were allocated and not closed.
func (c *Interrupts) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// Line implements interrupt.Controller. All lines are the same one.
func (c *Interrupts) Line(uint32) interrupt.Line { return &c.Line0 }

// Line is an interrupt line that remembers its level.
type Line struct{ high atomic.Bool }

// Set implements interrupt.Line.
func (l *Line) Set(high bool) { l.high.Store(high) }

// High reports the level.
func (l *Line) High() bool { return l.high.Load() }

// NewMSI implements interrupt.Controller.
func (c *Interrupts) NewMSI() (interrupt.MSI, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.open++
	c.mu.Unlock()
	return &MSI{c: c, fd: fd, masked: true}, nil
}

// MSI is an interrupt.MSI whose eventfd nobody reads: its count is the number of signals.
type MSI struct {
	c      *Interrupts
	fd     int
	mu     sync.Mutex
	masked bool
}

// Configure implements interrupt.MSI.
func (m *MSI) Configure(uint64, uint32) error { return nil }

// Mask implements interrupt.MSI.
func (m *MSI) Mask() error { return m.setMasked(true) }

// Unmask implements interrupt.MSI.
func (m *MSI) Unmask() error { return m.setMasked(false) }

func (m *MSI) setMasked(v bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.masked = v
	return nil
}

// Pending implements interrupt.MSI.
func (m *MSI) Pending() bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}}, 0)
	return n > 0
}

// FD implements interrupt.MSI.
func (m *MSI) FD() int { return m.fd }

// Signal implements interrupt.MSI.
func (m *MSI) Signal() { signal{m.fd}.Signal() }

// Take returns how many signals came since the last call.
func (m *MSI) Take() int { return takeEventfd(m.fd) }

// Close implements interrupt.MSI.
func (m *MSI) Close() error {
	m.c.mu.Lock()
	m.c.open--
	m.c.mu.Unlock()
	return unix.Close(m.fd)
}

// Bind implements interrupt.Doorbells.
func (c *Interrupts) Bind(gpa uint64, fd int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.BindError != nil {
		return c.BindError
	}
	if _, taken := c.doorbells[gpa]; taken {
		return fmt.Errorf("doorbell at %#x is taken", gpa)
	}
	c.doorbells[gpa] = fd
	return nil
}

// Unbind implements interrupt.Doorbells.
func (c *Interrupts) Unbind(gpa uint64, fd int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if got, ok := c.doorbells[gpa]; !ok || got != fd {
		c.t.Errorf("unbind %#x, %d: bound is %d, %v", gpa, fd, got, ok)
	}
	delete(c.doorbells, gpa)
	return nil
}

// Doorbells returns the number of bound doorbells.
func (c *Interrupts) Doorbells() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.doorbells)
}

// ring signals the doorbell at gpa as the kernel would and reports whether one is bound.
func (c *Interrupts) ring(gpa uint64) bool {
	c.mu.Lock()
	fd, ok := c.doorbells[gpa]
	c.mu.Unlock()
	if ok {
		signal{fd}.Signal()
	}
	return ok
}
