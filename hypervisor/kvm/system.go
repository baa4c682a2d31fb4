package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// System is /dev/kvm. Its methods are safe for concurrent use.
type System struct {
	fd      int
	mmapLen int
}

// NewSystem takes over fd, an open /dev/kvm, and checks that it speaks this API and has what every machine needs.
func NewSystem(fd int) (*System, error) {
	v, err := ioctl(fd, reqGetAPIVersion, 0)
	if err != nil {
		return nil, fmt.Errorf("ask /dev/kvm for its version (is the descriptor /dev/kvm?): %w", err)
	}
	if v != apiVersion {
		return nil, fmt.Errorf("/dev/kvm speaks API version %d; this engine needs %d", v, apiVersion)
	}
	s := &System{fd: fd}
	for _, c := range []struct {
		cap  Capability
		name string
	}{
		{CapIRQChip, "in-kernel interrupt controllers"}, {CapIRQFD, "irqfd"}, {CapIOEventFD, "ioeventfd"},
		{CapIRQRouting, "interrupt routing"}, {CapImmediateExit, "immediate exit"},
	} {
		if n, err := s.Check(c.cap); err != nil {
			return nil, err
		} else if n == 0 {
			return nil, fmt.Errorf("the host's KVM lacks %s; use Linux 5.10 or newer", c.name)
		}
	}
	n, err := ioctl(fd, reqGetVCPUMmapSize, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for the size of a vCPU's run page: %w", err)
	}
	s.mmapLen = int(n)
	return s, nil
}

// Open opens /dev/kvm for programs that nobody hands a descriptor to.
func Open() (*System, error) {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/kvm: %w", err)
	}
	s, err := NewSystem(fd)
	if err != nil {
		unix.Close(fd)
	}
	return s, err
}

// Close closes /dev/kvm. Virtual machines live on.
func (s *System) Close() error { return unix.Close(s.fd) }

// Check returns the value of a capability, 0 when the host lacks it.
func (s *System) Check(c Capability) (int, error) {
	n, err := ioctl(s.fd, reqCheckExtension, uintptr(c))
	if err != nil {
		return 0, fmt.Errorf("check KVM capability %d: %w", c, err)
	}
	return int(n), nil
}

// SupportedCPUID returns what KVM can offer a guest on this host (KVM_GET_SUPPORTED_CPUID).
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	c := &cpuid2{n: maxCPUIDEntries}
	if _, err := ioctlPtr(s.fd, reqGetSupportedCPU, c); err != nil {
		return nil, fmt.Errorf("read the CPUID that KVM supports: %w", err)
	}
	return append([]CPUIDEntry(nil), c.entries[:c.n]...), nil
}

// MSRIndices returns the model-specific registers that make up a vCPU's state (KVM_GET_MSR_INDEX_LIST).
func (s *System) MSRIndices() ([]uint32, error) { return s.msrIndices(reqGetMSRIndexList) }

func (s *System) msrIndices(req uintptr) ([]uint32, error) {
	l := &msrList{n: maxMSRs}
	if _, err := ioctlPtr(s.fd, req, l); err != nil {
		return nil, fmt.Errorf("list the MSRs of a vCPU: %w", err)
	}
	return append([]uint32(nil), l.indices[:l.n]...), nil
}

// CreateVM makes an empty virtual machine.
func (s *System) CreateVM() (*VM, error) {
	for {
		fd, err := ioctl(s.fd, reqCreateVM, 0)
		if errors.Is(err, unix.EINTR) {
			continue // signals of the runtime interrupt the slow path of KVM_CREATE_VM
		}
		if err != nil {
			return nil, fmt.Errorf("create a virtual machine: %w", err)
		}
		unix.CloseOnExec(int(fd))
		return &VM{fd: int(fd), sys: s}, nil
	}
}
