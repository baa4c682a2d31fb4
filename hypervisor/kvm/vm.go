package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// VM is one virtual machine. Its methods are safe for concurrent use unless they say otherwise.
type VM struct {
	fd  int
	sys *System
}

// Close drops this process's reference. The kernel frees the machine once its vCPUs are closed too.
func (vm *VM) Close() error { return unix.Close(vm.fd) }

// Check returns the value of a capability for this machine.
func (vm *VM) Check(c Capability) (int, error) {
	n, err := ioctl(vm.fd, reqCheckExtension, uintptr(c))
	if err != nil {
		return 0, fmt.Errorf("check KVM capability %d of the machine: %w", c, err)
	}
	return int(n), nil
}

// EnableCap turns on a capability of the machine.
func (vm *VM) EnableCap(c Capability, args ...uint64) error {
	e := &enableCap{cap: uint32(c)}
	copy(e.args[:], args)
	if _, err := ioctlPtr(vm.fd, reqEnableCap, e); err != nil {
		return fmt.Errorf("enable KVM capability %d: %w", c, err)
	}
	return nil
}

// Flags of SetMemory.
const (
	MemLogDirty = 1 << 0
	MemReadonly = 1 << 1
)

// SetMemory maps host, which must be whole pages outside the Go heap and outlive the mapping, at guest physical address
// gpa as the given slot. An empty host removes the slot.
func (vm *VM) SetMemory(slot int, gpa uint64, host []byte, flags uint32) error {
	r := &userMemoryRegion{slot: uint32(slot), flags: flags, guestPhysAddr: gpa, size: uint64(len(host))}
	if len(host) > 0 {
		r.uaddr = hostAddress(host)
	}
	if _, err := ioctlPtr(vm.fd, reqSetMemoryRegion, r); err != nil {
		return fmt.Errorf("map %#x bytes of guest memory at %#x as slot %d: %w", len(host), gpa, slot, err)
	}
	return nil
}

// DirtyLog stores into bitmap the pages of a slot that vCPUs wrote since the last call, one bit a page, and clears the
// log. The slot must have MemLogDirty; bitmap must have a bit for each of its pages.
func (vm *VM) DirtyLog(slot int, bitmap []uint64) error {
	d := &dirtyLogArg{slot: uint32(slot), bitmap: &bitmap[0]}
	if _, err := ioctlPtr(vm.fd, reqGetDirtyLog, d); err != nil {
		return fmt.Errorf("read the dirty log of slot %d: %w", slot, err)
	}
	return nil
}

// SetTSSAddr gives KVM three pages of guest physical space that Intel processors need for real mode. Before CreateVCPU.
func (vm *VM) SetTSSAddr(gpa uint64) error {
	if _, err := ioctl(vm.fd, reqSetTSSAddr, uintptr(gpa)); err != nil {
		return fmt.Errorf("set the TSS pages at %#x: %w", gpa, err)
	}
	return nil
}

// SetIdentityMapAddr gives KVM one page for an identity page table. Before CreateVCPU.
func (vm *VM) SetIdentityMapAddr(gpa uint64) error {
	if _, err := ioctlPtr(vm.fd, reqSetIdentityMap, &gpa); err != nil {
		return fmt.Errorf("set the identity map page at %#x: %w", gpa, err)
	}
	return nil
}

// pitSpeakerDummy makes the in-kernel PIT answer port 0x61 (KVM_PIT_SPEAKER_DUMMY).
const pitSpeakerDummy = 1

// CreatePIT2 makes the in-kernel i8254, which also answers the speaker port 0x61. After CreateIRQChip.
func (vm *VM) CreatePIT2() error {
	if _, err := ioctlPtr(vm.fd, reqCreatePIT2, &pitConfig{flags: pitSpeakerDummy}); err != nil {
		return fmt.Errorf("create the interval timer: %w", err)
	}
	return nil
}

// PIT returns the state of the interval timer.
func (vm *VM) PIT() (*PIT, error) {
	p := &PIT{}
	if _, err := ioctlPtr(vm.fd, reqGetPIT2, p); err != nil {
		return nil, fmt.Errorf("read the interval timer: %w", err)
	}
	return p, nil
}

// SetPIT stores the state of the interval timer.
func (vm *VM) SetPIT(p *PIT) error {
	if _, err := ioctlPtr(vm.fd, reqSetPIT2, p); err != nil {
		return fmt.Errorf("set the interval timer: %w", err)
	}
	return nil
}

// Clock returns kvmclock.
func (vm *VM) Clock() (ClockData, error) {
	var c ClockData
	if _, err := ioctlPtr(vm.fd, reqGetClock, &c); err != nil {
		return c, fmt.Errorf("read kvmclock: %w", err)
	}
	return c, nil
}

// SetClock sets kvmclock.
func (vm *VM) SetClock(c ClockData) error {
	if _, err := ioctlPtr(vm.fd, reqSetClock, &c); err != nil {
		return fmt.Errorf("set kvmclock: %w", err)
	}
	return nil
}

// CreateVCPU makes the vCPU with the given APIC ID. The calls of one machine come one after the other.
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	fd, err := ioctl(vm.fd, reqCreateVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("create vCPU %d: %w", id, err)
	}
	unix.CloseOnExec(int(fd))
	page, err := unix.Mmap(int(fd), 0, vm.sys.mmapLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(int(fd))
		return nil, fmt.Errorf("map the run page of vCPU %d: %w", id, err)
	}
	return newVCPU(int(fd), id, vm.xsaveLen(), page), nil
}

// xsaveLen returns the bytes of XSave. A host that does not tell has those of before there were more.
func (vm *VM) xsaveLen() int {
	n, err := vm.Check(CapXSave2)
	if err != nil {
		return xsaveSize
	}
	return min(max(n, xsaveSize), maxXSave)
}
