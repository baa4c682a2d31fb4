package irq

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/interrupt"
)

// level is a level-triggered interrupt by KVM's irqfd with resampling: KVM counts it apart from IRQLine, and a pin is the OR
// of both.
type level struct {
	c            *Controller
	fd, resample int
	gsi          int
}

var _ interrupt.Levels = (*Controller)(nil)

// NewLevel implements interrupt.Levels.
func (c *Controller) NewLevel() (interrupt.Level, error) {
	l := &level{c: c, gsi: interrupt.NoPin}
	var err error
	if l.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("create the eventfd of a level-triggered interrupt: %w", err)
	}
	if l.resample, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(l.fd)
		return nil, fmt.Errorf("create the resampling eventfd of a level-triggered interrupt: %w", err)
	}
	return l, nil
}

// Route implements interrupt.Level.
func (l *level) Route(gsi int) error {
	if gsi == l.gsi {
		return nil
	}
	if gsi >= Pins {
		return fmt.Errorf("route a level-triggered interrupt: the I/O APIC has no input %d", gsi)
	}
	if l.gsi != interrupt.NoPin {
		if err := l.c.vm.DeassignIRQFD(l.fd, uint32(l.gsi)); err != nil {
			return err
		}
		l.gsi = interrupt.NoPin
	}
	if gsi == interrupt.NoPin {
		return nil
	}
	if err := l.c.vm.AssignIRQFDResample(l.fd, l.resample, uint32(gsi)); err != nil {
		return err
	}
	l.gsi = gsi
	return nil
}

// FD implements interrupt.Level.
func (l *level) FD() int { return l.fd }

// Resample implements interrupt.Level.
func (l *level) Resample() int { return l.resample }

// Close implements interrupt.Level.
func (l *level) Close() error {
	return errors.Join(l.Route(interrupt.NoPin), unix.Close(l.fd), unix.Close(l.resample))
}
