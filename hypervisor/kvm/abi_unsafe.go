package kvm

// The structures of linux/kvm.h and asm/kvm.h, in their layout. They are in an unsafe file because the kernel reads and
// writes them through pointers; a test compares their sizes with the ioctl numbers.

type userMemoryRegion struct {
	slot, flags                uint32
	guestPhysAddr, size, uaddr uint64
}

type dirtyLogArg struct {
	slot, _ uint32
	bitmap  *uint64
}

// Regs is struct kvm_regs.
type Regs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// Segment is struct kvm_segment.
type Segment struct {
	Base                           uint64
	Limit                          uint32
	Selector                       uint16
	Type                           uint8
	Present, DPL, DB, S, L, G, AVL uint8
	Unusable, _                    uint8
}

// DTable is struct kvm_dtable.
type DTable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// SRegs is struct kvm_sregs.
type SRegs struct {
	CS, DS, ES, FS, GS, SS  Segment
	TR, LDT                 Segment
	GDT, IDT                DTable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER, APICBase          uint64
	InterruptBitmap         [4]uint64
}

// FPU is struct kvm_fpu.
type FPU struct {
	FPR            [8][16]uint8
	FCW, FSW       uint16
	FTWX, _        uint8
	LastOpcode     uint16
	LastIP, LastDP uint64
	XMM            [16][16]uint8
	MXCSR, _       uint32
}

// LAPIC is struct kvm_lapic_state: the registers as the APIC page shows them.
type LAPIC struct{ Regs [1024]uint8 }

// XSave is struct kvm_xsave, in XSAVE's standard layout, with the states that need more than its 4096 bytes.
type XSave []byte

// Sizes of XSave: what every host has, and a bound on what is ever read, in bytes.
const (
	xsaveSize = 4096
	maxXSave  = 1 << 16
)

// XCRs is struct kvm_xcrs.
type XCRs struct {
	NR, Flags uint32
	XCR       [16]struct {
		XCR, _ uint32
		Value  uint64
	}
	_ [16]uint64
}

// DebugRegs is struct kvm_debugregs.
type DebugRegs struct {
	DB                    [4]uint64
	DR6, DR7, Flags, rsv0 uint64
	_                     [8]uint64
}

// VCPUEvents is struct kvm_vcpu_events.
type VCPUEvents struct {
	Exception struct {
		Injected, NR, HasErrorCode, Pending uint8
		ErrorCode                           uint32
	}
	Interrupt           struct{ Injected, NR, Soft, Shadow uint8 }
	NMI                 struct{ Injected, Pending, Masked, _ uint8 }
	SIPIVector, Flags   uint32
	SMI                 struct{ SMM, Pending, InsideNMI, LatchedInit uint8 }
	TripleFault         uint8
	_                   [26]uint8
	ExceptionHasPayload uint8
	ExceptionPayload    uint64
}

// MSR is struct kvm_msr_entry.
type MSR struct {
	Index, _ uint32
	Value    uint64
}

const maxMSRs = 512

type msrs struct {
	n, _    uint32
	entries [maxMSRs]MSR
}

type msrList struct {
	n       uint32
	indices [maxMSRs]uint32
}

// CPUIDEntry is struct kvm_cpuid_entry2.
type CPUIDEntry struct {
	Function, Index, Flags uint32
	EAX, EBX, ECX, EDX     uint32
	_                      [3]uint32
}

// CPUIDSignificantIndex is the flag of a CPUIDEntry whose Index takes part in the match.
const CPUIDSignificantIndex = 1

const maxCPUIDEntries = 256

type cpuid2 struct {
	n, _    uint32
	entries [maxCPUIDEntries]CPUIDEntry
}

// ClockData is struct kvm_clock_data.
type ClockData struct {
	Clock    uint64 // nanoseconds of kvmclock
	Flags, _ uint32
	Realtime uint64 // nanoseconds since 1970, when Flags has ClockRealtime
	HostTSC  uint64
	_        [4]uint32
}

// Flags of ClockData.
const (
	ClockTSCStable = 2
	ClockRealtime  = 4
	ClockHostTSC   = 8
)

// IRQChip is struct kvm_irqchip: the state of one in-kernel interrupt controller.
type IRQChip struct {
	ID, _ uint32
	State [512]uint8
}

// IDs of the interrupt controllers.
const (
	ChipPICMaster = 0
	ChipPICSlave  = 1
	ChipIOAPIC    = 2
)

type pitConfig struct {
	flags uint32
	_     [15]uint32
}

// PITChannel is struct kvm_pit_channel_state.
type PITChannel struct {
	Count                                           uint32
	LatchedCount                                    uint16
	CountLatched, StatusLatched, Status, ReadState  uint8
	WriteState, WriteLatch, RWMode, Mode, BCD, Gate uint8
	CountLoadTime                                   int64
}

// PIT is struct kvm_pit_state2.
type PIT struct {
	Channels [3]PITChannel
	Flags    uint32
	_        [9]uint32
}

type irqfd struct {
	fd, gsi, flags, resamplefd uint32
	_                          [16]uint8
}

type ioeventfd struct {
	datamatch, addr uint64
	len             uint32
	fd              int32
	flags           uint32
	_               [36]uint8
}

type irqLevel struct{ irq, level uint32 }

type msi struct {
	addressLo, addressHi, data, flags, devid uint32
	_                                        [12]uint8
}

// Route is struct kvm_irq_routing_entry: what a global system interrupt reaches. Make one with ChipRoute or MSIRoute.
type Route struct {
	GSI, kind, flags, _ uint32
	u                   [8]uint32
}

// MaxRoutes is the most entries that SetRouting takes (KVM_MAX_IRQ_ROUTES).
const MaxRoutes = 4096

// routing is the head of struct kvm_irq_routing; the entries follow it.
type routing struct{ n, flags uint32 }

type enableCap struct {
	cap, flags uint32
	args       [4]uint64
	_          [64]uint8
}

type deviceAttr struct {
	flags, group uint32
	attr         uint64
	value        *uint64
}
