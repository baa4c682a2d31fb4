package boot

// VCPU is the state in which the first vCPU starts. General registers that are not here are zero, and interrupts are
// off.
type VCPU struct {
	RIP, RSP, RBX, RSI uint64
	RFLAGS             uint64
	CR0, CR3, CR4      uint64
	EFER               uint64
	GDT, IDT           Table
	CS, Data, TR       Segment // Data is for DS, ES, FS, GS and SS
}

// Table is the place of a descriptor table.
type Table struct {
	Base  uint64
	Limit uint16
}

// Segment is a segment register with its hidden part, field by field as KVM's struct kvm_segment has it.
type Segment struct {
	Selector uint16
	Base     uint64
	Limit    uint32
	Type     uint8
	S        bool // code or data, not system
	DPL      uint8
	Present  bool
	Long     bool // 64-bit code
	Big      bool // 32-bit default
	Granular bool // limit counts pages
}

// Control register bits (Intel SDM 3A, 2.5; AMD64 APM 2, 3.1).
const (
	cr0PE   = 1 << 0
	cr0ET   = 1 << 4
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10

	rflagsReserved = 1 << 1
)

// Selectors that the 64-bit boot protocol names (boot.rst, "64-bit boot protocol").
const (
	bootCS = 0x10
	bootDS = 0x18
	bootTR = 0x20
)

func codeSegment(long bool) Segment {
	return Segment{Selector: bootCS, Limit: 0xffffffff, Type: 0xb, S: true, Present: true, Long: long, Big: !long, Granular: true}
}

func dataSegment() Segment {
	return Segment{Selector: bootDS, Limit: 0xffffffff, Type: 3, S: true, Present: true, Big: true, Granular: true}
}

// taskSegment is a busy 32-bit (or 64-bit) TSS: VMX refuses to enter a guest without one.
func taskSegment() Segment {
	return Segment{Selector: bootTR, Limit: 0x67, Type: 0xb, Present: true}
}

// descriptors is the GDT in memory that matches the segments above.
func descriptors(long bool) []uint64 {
	code := uint64(0x00cf9b000000ffff)
	if long {
		code = 0x00af9b000000ffff
	}
	return []uint64{0, 0, code, 0x00cf93000000ffff, 0x00008b0000000067, 0}
}
