package irq

import (
	"virtd/hypervisor/interrupt"
	"virtd/hypervisor/kvm"
)

// Doorbells binds guest writes to eventfds with KVM's ioeventfd.
type Doorbells struct{ vm *kvm.VM }

var _ interrupt.Doorbells = Doorbells{}

// NewDoorbells returns the doorbells of vm.
func NewDoorbells(vm *kvm.VM) Doorbells { return Doorbells{vm} }

// Bind implements interrupt.Doorbells. A length of 0 matches writes of any width and takes KVM's fast path, which does
// not even decode the instruction.
func (d Doorbells) Bind(gpa uint64, fd int) error {
	return d.vm.AssignIOEventFD(kvm.IOEvent{Addr: gpa}, fd)
}

// Unbind implements interrupt.Doorbells.
func (d Doorbells) Unbind(gpa uint64, fd int) error {
	return d.vm.DeassignIOEventFD(kvm.IOEvent{Addr: gpa}, fd)
}
