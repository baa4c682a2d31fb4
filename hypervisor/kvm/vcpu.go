package kvm

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// VCPU is one virtual processor. One thread runs it and reads or sets its state; Kick and NMI may come from any.
type VCPU struct {
	fd       int
	id       int
	xsaveLen int    // bytes of XSave
	page     []byte // struct kvm_run, shared with the kernel
	tid      atomic.Int32
	pid      int
}

func newVCPU(fd, id, xsaveLen int, page []byte) *VCPU {
	return &VCPU{fd: fd, id: id, xsaveLen: xsaveLen, page: page, pid: unix.Getpid()}
}

// ID returns the APIC ID.
func (v *VCPU) ID() int { return v.id }

// TID returns the thread that Bind named, 0 before.
func (v *VCPU) TID() int { return int(v.tid.Load()) }

// Close unmaps the run page and closes the vCPU. No thread may be in Run.
func (v *VCPU) Close() error {
	return errors.Join(unix.Munmap(v.page), unix.Close(v.fd))
}

// Bind says that the calling goroutine, locked to its thread, runs the vCPU from now on.
func (v *VCPU) Bind() { v.tid.Store(int32(unix.Gettid())) }

// Unbind says that no thread runs the vCPU any more, so that Kick sends no signal to a stranger.
func (v *VCPU) Unbind() { v.tid.Store(0) }

// Run lets the guest execute until something needs the engine. EINTR alone does not mean that Kick was called: the Go
// runtime's own signals interrupt it too. The caller looks at its own request word after every return.
func (v *VCPU) Run() error {
	_, err := ioctl(v.fd, reqRun, 0)
	return err
}

// Kick makes the current or the next Run return with EINTR, until ClearKick. The request word that tells the vCPU's
// thread what is wanted must be stored before.
func (v *VCPU) Kick() {
	v.setImmediateExit(true)
	tid := int(v.tid.Load())
	if tid == 0 || tid == unix.Gettid() {
		return
	}
	for unix.Tgkill(v.pid, tid, unix.SIGUSR1) == unix.EAGAIN {
	}
}

// ClearKick ends what Kick began. The caller checks its request word afterwards, and a kick that comes later counts.
func (v *VCPU) ClearKick() { v.setImmediateExit(false) }

// CompleteIO lets KVM finish the guest instruction whose port or memory access the last exit was about, without
// executing another one. Reading the vCPU's state before that would lose the access.
func (v *VCPU) CompleteIO() error {
	v.setImmediateExit(true)
	defer v.setImmediateExit(false)
	if err := v.Run(); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("complete the pending access of vCPU %d: %w", v.id, err)
	}
	return nil
}

// NMI queues a non-maskable interrupt.
func (v *VCPU) NMI() error {
	if _, err := ioctl(v.fd, reqNMI, 0); err != nil {
		return fmt.Errorf("send an NMI to vCPU %d: %w", v.id, err)
	}
	return nil
}

// ClockPaused tells the guest's kvmclock that the machine stood still, so that its watchdogs do not bark. It fails with
// EINVAL when the guest does not use kvmclock, which is not an error here.
func (v *VCPU) ClockPaused() error {
	if _, err := ioctl(v.fd, reqKVMClockCtrl, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("tell vCPU %d that time stood still: %w", v.id, err)
	}
	return nil
}

// TSCKHz returns the frequency of the guest's time stamp counter.
func (v *VCPU) TSCKHz() (int, error) {
	n, err := ioctl(v.fd, reqGetTSCKHz, 0)
	if err != nil {
		return 0, fmt.Errorf("read the TSC frequency of vCPU %d: %w", v.id, err)
	}
	return int(n), nil
}

// SetTSCKHz sets the frequency of the guest's time stamp counter; the host needs TSC scaling for one other than its own.
func (v *VCPU) SetTSCKHz(khz int) error {
	if _, err := ioctl(v.fd, reqSetTSCKHz, uintptr(khz)); err != nil {
		return fmt.Errorf("set the TSC of vCPU %d to %d kHz: %w", v.id, khz, err)
	}
	return nil
}

// Group and attribute of a vCPU's TSC offset (KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET; Linux 5.16).
const (
	attrTSCControl = 0
	attrTSCOffset  = 0
)

// TSCOffset returns what the guest's time stamp counter reads minus the host's (scaled). It fails before Linux 5.16.
func (v *VCPU) TSCOffset() (uint64, error) {
	var n uint64
	a := &deviceAttr{group: attrTSCControl, attr: attrTSCOffset, value: &n}
	if _, err := ioctlPtr(v.fd, reqGetDeviceAttr, a); err != nil {
		return 0, fmt.Errorf("read the TSC offset of vCPU %d: %w", v.id, err)
	}
	return n, nil
}

// SetTSCOffset sets what TSCOffset returns.
func (v *VCPU) SetTSCOffset(n uint64) error {
	a := &deviceAttr{group: attrTSCControl, attr: attrTSCOffset, value: &n}
	if _, err := ioctlPtr(v.fd, reqSetDeviceAttr, a); err != nil {
		return fmt.Errorf("set the TSC offset of vCPU %d: %w", v.id, err)
	}
	return nil
}
