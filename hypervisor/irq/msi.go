package irq

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/interrupt"
)

// msi is one message interrupt. The lock orders Configure, Mask and Unmask; Signal takes none.
type msi struct {
	c   *Controller
	gsi uint32
	fd  int

	mu      sync.Mutex
	address uint64
	data    uint32
	message bool // Configure was called
	bound   bool // the kernel delivers
	closed  bool
}

// NewMSI implements interrupt.Controller.
func (c *Controller) NewMSI() (interrupt.MSI, error) {
	gsi, err := c.allocate()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create the eventfd of a message interrupt: %w", err), c.release(gsi))
	}
	return &msi{c: c, gsi: gsi, fd: fd}, nil
}

// Configure implements interrupt.MSI. While masked it only remembers the message: guests write its three words one by
// one, and each change of the kernel's table costs a grace period.
func (m *msi) Configure(address uint64, data uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.address, m.data, m.message = address, data, true
	if !m.bound {
		return nil
	}
	return m.c.setRoute(m.gsi, address, data)
}

// Mask implements interrupt.MSI.
func (m *msi) Mask() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.bound {
		return nil
	}
	m.bound = false
	return m.c.vm.DeassignIRQFD(m.fd, m.gsi)
}

// Unmask implements interrupt.MSI. Binding an eventfd that was signalled delivers at once.
func (m *msi) Unmask() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bound || m.closed {
		return nil
	}
	if m.message {
		if err := m.c.setRoute(m.gsi, m.address, m.data); err != nil {
			return err
		}
	}
	if err := m.c.vm.AssignIRQFD(m.fd, m.gsi); err != nil {
		return err
	}
	m.bound = true
	return nil
}

// Pending implements interrupt.MSI.
func (m *msi) Pending() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bound || m.closed {
		return false
	}
	p := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLIN != 0
}

// FD implements interrupt.MSI.
func (m *msi) FD() int { return m.fd }

// one is what a signal adds to an eventfd's counter, in host byte order (amd64 and arm64 are little-endian).
var one = [8]byte{1}

// Signal implements interrupt.MSI. The counter of a masked interrupt can fill up; it is pending all the same.
func (m *msi) Signal() {
	for {
		if _, err := unix.Write(m.fd, one[:]); err != unix.EINTR {
			return
		}
	}
}

// Close implements interrupt.MSI.
func (m *msi) Close() error {
	err := m.Mask()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return err
	}
	m.closed = true
	return errors.Join(err, m.c.release(m.gsi), unix.Close(m.fd))
}
