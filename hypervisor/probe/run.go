package probe

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/kvm"
)

// Verdict says whether Linux can run, and how that was told.
type Verdict struct {
	Linux  bool   `json:"linux"`
	Reason string `json:"reason"`
}

// limit is how long the guest, which needs microseconds, may take.
const limit = 2 * time.Second

// Run executes the probe guest on sys. An error means that the guest could not be set up; a guest that did not finish
// is a verdict.
func Run(ctx context.Context, sys *kvm.System) (Verdict, error) {
	vm, err := sys.CreateVM()
	if err != nil {
		return Verdict{}, err
	}
	defer vm.Close()
	ram, err := unix.Mmap(-1, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return Verdict{}, fmt.Errorf("map the probe guest's RAM: %w", err)
	}
	defer unix.Munmap(ram)
	load(ram)
	if err := vm.SetMemory(0, 0, ram, 0); err != nil {
		return Verdict{}, err
	}
	if err := vm.SetTSSAddr(0xfffbd000); err != nil {
		return Verdict{}, err
	}
	vcpu, err := vm.CreateVCPU(0)
	if err != nil {
		return Verdict{}, err
	}
	defer vcpu.Close()
	if err := prepare(sys, vcpu); err != nil {
		return Verdict{}, err
	}
	return execute(ctx, vcpu), nil
}

// prepare puts the vCPU into 64-bit mode at the program's start.
func prepare(sys *kvm.System, vcpu *kvm.VCPU) error {
	entries, err := sys.SupportedCPUID()
	if err != nil {
		return err
	}
	if err := vcpu.SetCPUID(entries); err != nil {
		return err
	}
	sregs, err := vcpu.SRegs()
	if err != nil {
		return err
	}
	const ( // Intel SDM volume 3A, 2.5 and 2.2.1
		cr0PE, cr0PG     = 1 << 0, 1 << 31
		cr4PAE           = 1 << 5
		eferLME, eferLMA = 1 << 8, 1 << 10
	)
	sregs.CR0 |= cr0PE | cr0PG
	sregs.CR3, sregs.CR4 = pml4At, cr4PAE
	sregs.EFER |= eferLME | eferLMA
	sregs.GDT = kvm.DTable{Base: gdtAt, Limit: 0x17}
	sregs.CS = kvm.Segment{Limit: 0xffffffff, Selector: codeSel, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: stackSel, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	sregs.DS, sregs.ES, sregs.FS, sregs.GS, sregs.SS = data, data, data, data, data
	if err := vcpu.SetSRegs(sregs); err != nil {
		return err
	}
	return vcpu.SetRegs(&kvm.Regs{RIP: codeAt, RSP: stackTop, RFLAGS: 2})
}

// execute runs the guest and says how far it came.
func execute(ctx context.Context, vcpu *kvm.VCPU) Verdict {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	vcpu.Bind()
	defer vcpu.Unbind()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(ctx, vcpu.Kick)
	defer stop()
	step := 0
	stuck := func(why string) Verdict {
		return Verdict{false, fmt.Sprintf("%s at privilege level 0 fails in this KVM (%s)", steps[min(step+1, stepCount)], why)}
	}
	for {
		if err := vcpu.Run(); err != nil {
			if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
				return stuck(err.Error())
			}
			if ctx.Err() != nil {
				return stuck("no progress")
			}
			continue
		}
		switch reason := vcpu.ExitReason(); reason {
		case kvm.ExitIO:
			if p := vcpu.PIO(); p.Out && p.Port == stepPort {
				step = int(p.Data[0])
			}
		case kvm.ExitHLT:
			if step == stepCount {
				return Verdict{true, "the probe guest ran cmpxchg16b, swapgs and iretq at privilege level 0"}
			}
			return stuck("halted early")
		case kvm.ExitInternalError:
			return stuck("KVM internal error")
		case kvm.ExitShutdown:
			return stuck("triple fault")
		default:
			return stuck(fmt.Sprintf("exit reason %d", reason))
		}
	}
}
