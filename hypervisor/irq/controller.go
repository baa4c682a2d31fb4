package irq

import (
	"fmt"
	"sync"

	"virtd/hypervisor/interrupt"
	"virtd/hypervisor/kvm"
)

// Pins is the number of inputs of the IOAPIC (82093AA, 3.2.2). Message interrupts use the numbers above.
const Pins = 24

// Controller hands out the interrupts of one machine. It is safe for concurrent use.
type Controller struct {
	vm *kvm.VM

	mu      sync.Mutex
	pins    [Pins]pin
	routes  map[uint32]kvm.Route // of message interrupts, by GSI
	free    []uint32
	nextGSI uint32
	max     uint32
	logf    func(string, ...any)
}

var _ interrupt.Controller = (*Controller)(nil)

// New sets the routes of a PC: pins 0 to 15 reach the PICs and the IOAPIC, the others the IOAPIC only, and the timer's
// pin 0 is input 2 of the IOAPIC, as the MADT's interrupt source override says. logf, which may be nil, hears of failed
// calls into the kernel.
func New(vm *kvm.VM, logf func(string, ...any)) (*Controller, error) {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	c := &Controller{vm: vm, routes: map[uint32]kvm.Route{}, nextGSI: Pins, max: kvm.MaxRoutes - 64, logf: logf}
	for i := range c.pins {
		c.pins[i].c, c.pins[i].gsi = c, uint32(i)
	}
	return c, c.route()
}

// route hands the whole table to the kernel. The caller holds mu, or is New.
func (c *Controller) route() error {
	table := make([]kvm.Route, 0, 40+len(c.routes))
	for i := uint32(0); i < 16; i++ {
		chip, n := uint32(kvm.ChipPICMaster), i
		if i >= 8 {
			chip, n = kvm.ChipPICSlave, i-8
		}
		if i != 2 { // the cascade input
			table = append(table, kvm.ChipRoute(i, chip, n))
		}
	}
	for i := uint32(0); i < Pins; i++ {
		switch i {
		case 0:
			table = append(table, kvm.ChipRoute(0, kvm.ChipIOAPIC, 2))
		case 2:
		default:
			table = append(table, kvm.ChipRoute(i, kvm.ChipIOAPIC, i))
		}
	}
	for gsi := uint32(Pins); gsi < c.nextGSI; gsi++ {
		if r, ok := c.routes[gsi]; ok {
			table = append(table, r)
		}
	}
	return c.vm.SetRouting(table)
}

// pin is one input of the controllers, the OR of its shares.
type pin struct {
	c    *Controller
	gsi  uint32
	mu   sync.Mutex
	high int // shares that are high
}

type line struct {
	pin  *pin
	high bool // guarded by pin.mu
}

// Line implements interrupt.Controller. A gsi beyond the last pin gives a line that reaches nothing.
func (c *Controller) Line(gsi uint32) interrupt.Line {
	if gsi >= Pins {
		c.logf("interrupt %d has no pin", gsi)
		return &line{pin: &pin{c: c, gsi: gsi}}
	}
	return &line{pin: &c.pins[gsi]}
}

// Set implements interrupt.Line.
func (l *line) Set(high bool) {
	p := l.pin
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.high == high {
		return
	}
	l.high = high
	before := p.high > 0
	if high {
		p.high++
	} else {
		p.high--
	}
	if now := p.high > 0; now != before && p.gsi < Pins {
		if err := p.c.vm.IRQLine(p.gsi, now); err != nil {
			p.c.logf("%v", err)
		}
	}
}

// Reapply drives each pin to the level its shares want, after the controllers' state was set from outside.
func (c *Controller) Reapply() error {
	for i := range c.pins {
		p := &c.pins[i]
		p.mu.Lock()
		err := c.vm.IRQLine(p.gsi, p.high > 0)
		p.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// allocate reserves a GSI for a message interrupt.
func (c *Controller) allocate() (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.free); n > 0 {
		gsi := c.free[n-1]
		c.free = c.free[:n-1]
		return gsi, nil
	}
	if c.nextGSI >= c.max {
		return 0, fmt.Errorf("no interrupt number left: all %d message interrupts of the machine are in use", c.max-Pins)
	}
	c.nextGSI++
	return c.nextGSI - 1, nil
}

// setRoute makes gsi send the message and tells the kernel when that changes something.
func (c *Controller) setRoute(gsi uint32, address uint64, data uint32) error {
	r := kvm.MSIRoute(gsi, address, data)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.routes[gsi] == r {
		return nil
	}
	old, had := c.routes[gsi]
	c.routes[gsi] = r
	err := c.route()
	if err != nil { // a message that KVM refuses must not spoil the table for the others
		delete(c.routes, gsi)
		if had {
			c.routes[gsi] = old
		}
	}
	return err
}

func (c *Controller) release(gsi uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, gsi)
	if _, ok := c.routes[gsi]; !ok {
		return nil
	}
	delete(c.routes, gsi)
	return c.route()
}
