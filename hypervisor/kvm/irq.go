package kvm

import "fmt"

// CreateIRQChip makes the in-kernel PICs, IOAPIC and, with each vCPU, local APIC. Before CreateVCPU.
func (vm *VM) CreateIRQChip() error {
	if _, err := ioctl(vm.fd, reqCreateIRQChip, 0); err != nil {
		return fmt.Errorf("create the interrupt controllers: %w", err)
	}
	return nil
}

// IRQChip returns the state of one of the interrupt controllers, ChipPICMaster to ChipIOAPIC.
func (vm *VM) IRQChip(id uint32) (*IRQChip, error) {
	c := &IRQChip{ID: id}
	if _, err := ioctlPtr(vm.fd, reqGetIRQChip, c); err != nil {
		return nil, fmt.Errorf("read interrupt controller %d: %w", id, err)
	}
	return c, nil
}

// SetIRQChip stores the state of one of the interrupt controllers.
func (vm *VM) SetIRQChip(c *IRQChip) error {
	if _, err := ioctlPtr(vm.fd, reqSetIRQChip, c); err != nil {
		return fmt.Errorf("set interrupt controller %d: %w", c.ID, err)
	}
	return nil
}

// IRQLine drives the level of a global system interrupt.
func (vm *VM) IRQLine(gsi uint32, high bool) error {
	l := irqLevel{irq: gsi}
	if high {
		l.level = 1
	}
	if _, err := ioctlPtr(vm.fd, reqIRQLine, &l); err != nil {
		return fmt.Errorf("drive interrupt %d: %w", gsi, err)
	}
	return nil
}

const (
	routeIRQChip = 1
	routeMSI     = 2
)

// ChipRoute lets gsi reach a pin of an interrupt controller.
func ChipRoute(gsi, chip, pin uint32) Route {
	return Route{GSI: gsi, kind: routeIRQChip, u: [8]uint32{chip, pin}}
}

// MSIRoute lets gsi send a message.
func MSIRoute(gsi uint32, address uint64, data uint32) Route {
	return Route{GSI: gsi, kind: routeMSI, u: [8]uint32{uint32(address), uint32(address >> 32), data}}
}

// SetRouting replaces the whole routing table.
func (vm *VM) SetRouting(routes []Route) error {
	if len(routes) > MaxRoutes {
		return fmt.Errorf("route %d interrupts: KVM takes %d", len(routes), MaxRoutes)
	}
	if err := setRouting(vm.fd, routes); err != nil {
		return fmt.Errorf("route %d interrupts: %w", len(routes), err)
	}
	return nil
}

// SignalMSI sends one message without a route and reports whether it reached a vCPU.
func (vm *VM) SignalMSI(address uint64, data uint32) (bool, error) {
	m := &msi{addressLo: uint32(address), addressHi: uint32(address >> 32), data: data}
	n, err := ioctlPtr(vm.fd, reqSignalMSI, m)
	if err != nil {
		return false, fmt.Errorf("send message interrupt %#x to %#x: %w", data, address, err)
	}
	return n > 0, nil
}

const (
	irqfdDeassign = 1
	irqfdResample = 2
)

// AssignIRQFD raises gsi at each signal of eventfd, at once when it is signalled already.
func (vm *VM) AssignIRQFD(eventfd int, gsi uint32) error {
	return vm.irqfd(&irqfd{fd: uint32(eventfd), gsi: gsi})
}

// AssignIRQFDResample makes gsi level-triggered: a signal of eventfd raises the pin; at the guest's end of interrupt KVM
// lowers it and signals resample, whose owner raises it again if its device still asks.
func (vm *VM) AssignIRQFDResample(eventfd, resample int, gsi uint32) error {
	return vm.irqfd(&irqfd{fd: uint32(eventfd), gsi: gsi, flags: irqfdResample, resamplefd: uint32(resample)})
}

// DeassignIRQFD undoes AssignIRQFD and AssignIRQFDResample. Signals that come later stay in the eventfd.
func (vm *VM) DeassignIRQFD(eventfd int, gsi uint32) error {
	return vm.irqfd(&irqfd{fd: uint32(eventfd), gsi: gsi, flags: irqfdDeassign})
}

func (vm *VM) irqfd(i *irqfd) error {
	if _, err := ioctlPtr(vm.fd, reqIRQFD, i); err != nil {
		return fmt.Errorf("bind eventfd %d to interrupt %d (flags %#x): %w", i.fd, i.gsi, i.flags, err)
	}
	return nil
}

const (
	ioeventfdDatamatch = 1
	ioeventfdPIO       = 2
	ioeventfdDeassign  = 4
)

// IOEvent says which guest writes signal an eventfd. Two IOEvents of one machine must not match the same write.
type IOEvent struct {
	Addr  uint64
	Len   uint32 // bytes of the write: 1, 2, 4, 8, or 0 for any
	Port  bool   // Addr is a port, not memory
	Match bool   // only writes of Data
	Data  uint64
}

// AssignIOEventFD lets the kernel signal eventfd at each matching write, instead of an exit.
func (vm *VM) AssignIOEventFD(e IOEvent, eventfd int) error { return vm.ioeventfd(e, eventfd, 0) }

// DeassignIOEventFD undoes AssignIOEventFD with the same arguments.
func (vm *VM) DeassignIOEventFD(e IOEvent, eventfd int) error {
	return vm.ioeventfd(e, eventfd, ioeventfdDeassign)
}

func (vm *VM) ioeventfd(e IOEvent, eventfd int, flags uint32) error {
	if e.Port {
		flags |= ioeventfdPIO
	}
	if e.Match {
		flags |= ioeventfdDatamatch
	}
	arg := &ioeventfd{datamatch: e.Data, addr: e.Addr, len: e.Len, fd: int32(eventfd), flags: flags}
	if _, err := ioctlPtr(vm.fd, reqIOEventFD, arg); err != nil {
		return fmt.Errorf("bind eventfd %d to writes at %#x (flags %#x): %w", eventfd, e.Addr, flags, err)
	}
	return nil
}
