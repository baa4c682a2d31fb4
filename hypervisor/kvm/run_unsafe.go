package kvm

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// Offsets in struct kvm_run.
const (
	runImmediateExit = 1
	runExitReason    = 8
	runUnion         = 32 // the union of exit details
	pioPageOffset    = 4096
)

// setImmediateExit stores the immediate_exit byte with a release, so that a thread about to enter KVM_RUN sees it. Bytes
// 0 to 3 of the page (request_interrupt_window, immediate_exit, padding) are inputs that only this code writes; the
// engine leaves request_interrupt_window at 0 because the interrupt controllers are in the kernel.
func (v *VCPU) setImmediateExit(on bool) {
	word := uint32(0)
	if on {
		word = 1 << (8 * runImmediateExit)
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&v.page[0])), word)
}

// ExitReason is KVM_EXIT_*.
type ExitReason uint32

// Exit reasons that a machine handles.
const (
	ExitUnknown       ExitReason = 0
	ExitException     ExitReason = 1
	ExitIO            ExitReason = 2
	ExitHypercall     ExitReason = 3
	ExitDebug         ExitReason = 4
	ExitHLT           ExitReason = 5
	ExitMMIO          ExitReason = 6
	ExitShutdown      ExitReason = 8
	ExitFailEntry     ExitReason = 9
	ExitIntr          ExitReason = 10
	ExitInternalError ExitReason = 17
	ExitSystemEvent   ExitReason = 24
)

// ExitReason returns why the last Run ended.
func (v *VCPU) ExitReason() ExitReason {
	return ExitReason(binary.LittleEndian.Uint32(v.page[runExitReason:]))
}

// PIO is a port access that the guest made. Data has Count elements of Size bytes: an access of a string instruction
// has Count > 1.
type PIO struct {
	Out   bool // the guest writes
	Size  int  // 1, 2 or 4
	Port  uint16
	Count int
	Data  []byte // in the run page; for an input the engine fills it before the next Run
}

// PIO returns the details of an ExitIO. It does not allocate.
func (v *VCPU) PIO() (p PIO) {
	u := v.page[runUnion:]
	p.Out, p.Size = u[0] == 1, int(u[1])
	p.Port = binary.LittleEndian.Uint16(u[2:])
	p.Count = int(binary.LittleEndian.Uint32(u[4:]))
	off := binary.LittleEndian.Uint64(u[8:])
	n := uint64(p.Size) * uint64(p.Count)
	if off > uint64(len(v.page)) || n > uint64(len(v.page))-off {
		return PIO{Out: p.Out, Size: p.Size, Port: p.Port} // the kernel never does this
	}
	p.Data = v.page[off : off+n : off+n]
	return p
}

// MMIO is a memory access outside guest RAM.
type MMIO struct {
	Addr  uint64
	Data  []byte // in the run page, 1 to 8 bytes; for a read the engine fills it before the next Run
	Write bool
}

// MMIO returns the details of an ExitMMIO. It does not allocate.
func (v *VCPU) MMIO() MMIO {
	u := v.page[runUnion:]
	n := min(binary.LittleEndian.Uint32(u[16:]), 8)
	return MMIO{Addr: binary.LittleEndian.Uint64(u), Data: u[8 : 8+n : 8+n], Write: u[20] != 0}
}

// SystemEvent returns the type of an ExitSystemEvent, KVM_SYSTEM_EVENT_*.
func (v *VCPU) SystemEvent() uint32 { return binary.LittleEndian.Uint32(v.page[runUnion:]) }

// FailEntry returns the hardware's reason of an ExitFailEntry.
func (v *VCPU) FailEntry() uint64 { return binary.LittleEndian.Uint64(v.page[runUnion:]) }

// InternalError is why KVM gave up.
type InternalError struct {
	Suberror uint32 // KVM_INTERNAL_ERROR_*: 1 is an instruction that it cannot emulate
	Insn     []byte // the bytes of that instruction, when KVM gave them
}

// InternalError returns the details of an ExitInternalError.
func (v *VCPU) InternalError() InternalError {
	u := v.page[runUnion:]
	e := InternalError{Suberror: binary.LittleEndian.Uint32(u)}
	ndata := binary.LittleEndian.Uint32(u[4:])
	if flags := binary.LittleEndian.Uint64(u[8:]); e.Suberror == 1 && ndata >= 4 && flags&1 != 0 {
		e.Insn = append(e.Insn, u[17:17+min(int(u[16]), 15)]...)
	}
	return e
}
