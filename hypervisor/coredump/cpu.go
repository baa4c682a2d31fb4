package coredump

import "encoding/binary"

// CPU is the registers of one vCPU.
type CPU struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
	CS, DS, ES, FS, GS, SS, LDT, TR        Segment
	GDT, IDT                               Segment // base and limit only
	CR0, CR2, CR3, CR4                     uint64
	KernelGSBase                           uint64
}

// Segment is a segment register with its hidden part. Flags has the attributes where the upper word of a descriptor has
// them (Intel SDM 3, 3.4.5).
type Segment struct {
	Selector, Limit, Flags uint32
	Base                   uint64
}

// Offsets in struct elf_prstatus of x86-64 (Linux, include/uapi/linux/elfcore.h).
const (
	prstatusSize = 336
	prPID        = 32
	prReg        = 112
)

// prstatus is the note's content. Thread 0 means the whole process to debuggers, so that numbers start at 1.
func (c *CPU) prstatus(index int) []byte {
	b := make([]byte, prstatusSize)
	binary.LittleEndian.PutUint32(b[prPID:], uint32(index+1))
	// struct user_regs_struct
	for i, v := range [...]uint64{c.R15, c.R14, c.R13, c.R12, c.RBP, c.RBX, c.R11, c.R10, c.R9, c.R8, c.RAX, c.RCX, c.RDX, c.RSI, c.RDI,
		c.RAX, c.RIP, uint64(c.CS.Selector), c.RFLAGS, c.RSP, uint64(c.SS.Selector), c.FS.Base, c.GS.Base, uint64(c.DS.Selector),
		uint64(c.ES.Selector), uint64(c.FS.Selector), uint64(c.GS.Selector)} {
		binary.LittleEndian.PutUint64(b[prReg+8*i:], v)
	}
	return b
}

const (
	qemuStateVersion = 1
	qemuStateSize    = 440
)

// qemuState is the content of the note of type 0 and name QEMU that QEMU's dump-guest-memory writes and crash reads.
func (c *CPU) qemuState() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 0, qemuStateSize), qemuStateVersion)
	b = le.AppendUint32(b, qemuStateSize)
	for _, v := range [...]uint64{c.RAX, c.RBX, c.RCX, c.RDX, c.RSI, c.RDI, c.RSP, c.RBP, c.R8, c.R9, c.R10, c.R11, c.R12, c.R13, c.R14, c.R15,
		c.RIP, c.RFLAGS} {
		b = le.AppendUint64(b, v)
	}
	for _, s := range [...]Segment{c.CS, c.DS, c.ES, c.FS, c.GS, c.SS, c.LDT, c.TR, c.GDT, c.IDT} {
		for _, v := range [...]uint32{s.Selector, s.Limit, s.Flags, 0} {
			b = le.AppendUint32(b, v)
		}
		b = le.AppendUint64(b, s.Base)
	}
	for _, v := range [...]uint64{c.CR0, 0, c.CR2, c.CR3, c.CR4, c.KernelGSBase} {
		b = le.AppendUint64(b, v)
	}
	return b
}
