package acpi

import "virtd/hypervisor/pci"

// Board is the machine type.
type Board uint8

// Boards.
const (
	Q35 Board = iota
	PC
)

// CPU is one processor the machine can have.
type CPU struct {
	APICID uint32
	Online bool // present when the guest starts
}

// Serial is a 16550 that the DSDT describes: 0 is COM1, 3 is COM4.
type Serial int

// Config is what the tables depend on.
type Config struct {
	Board   Board
	CPUs    []CPU // the index is the processor's UID
	Windows pci.Windows
	Slots   []uint8 // slots of the root bus that have functions, or can have them, for interrupt routing
	LastBus uint8   // highest PCI bus number, pci.Root's LastBus
	Serials []Serial
	PVPanic bool
	// Ports are the root ports, behind which devices come and go (q35).
	Ports []Port
	// CPUHotplug: processors come and go by the registers of chipset.CPUHotplug, all but the first one.
	CPUHotplug bool
}

// Port is a PCI Express root port.
type Port struct {
	Index          uint8 // controller index and bus number
	Slot, Function uint8 // on the root bus
}

// HotplugGPE is the general purpose event that says that a PCI device came or is asked to go.
const HotplugGPE = 1

// CPUHotplugGPE is the general purpose event that says that a processor came or is asked to go.
const CPUHotplugGPE = 2

// FirstHotplugSlot is the first slot of the pc board's bus that takes devices while the guest runs. The chipset is in
// those before it.
const FirstHotplugSlot = 2

// Fixed hardware (4.8). Offsets are from Windows.PMBase.
const (
	PM1Event   = 0x00 // PM1 status and enable, 2 bytes each
	PM1Control = 0x04
	PMTimer    = 0x08 // 24 bits
	// SCI is the system control interrupt: ISA interrupt and I/O APIC input 9, level, active high.
	SCI = 9
	// TimerGSI is the I/O APIC input of the i8254. The machine routes ISA interrupt 0 there.
	TimerGSI = 2
	// ResetPort and ResetValue are the reset register (4.8.3.6): a full reset through the chipset's CF9.
	ResetPort, ResetValue = 0xcf9, 0x06
	// PVPanicPort is the port of the pvpanic device.
	PVPanicPort = 0x505

	IOAPICBase = 0xfec00000
	LAPICBase  = 0xfee00000
)

// GPE0 returns the general purpose event block of a board: offset from PMBase and bytes, half status, half enable
// (ICH9 13.8.3.5, PIIX4 7.2).
func (b Board) GPE0() (offset uint16, size uint8) {
	if b == PC {
		return 0x0c, 4
	}
	return 0x20, 16
}

// SleepTypeS5 is what a guest writes to SLP_TYP of PM1 control to power off: ICH9 13.8.3.3 has 7 for S5, PIIX4 7.2.1
// has 0.
func (b Board) SleepTypeS5() uint8 {
	if b == PC {
		return 0
	}
	return 7
}

// Build returns the tables of a machine.
func Build(c Config) *Tables {
	b := &builder{oemTable: "VIRTDQ35"}
	if c.Board == PC {
		b.oemTable = "VIRTDPC "
	}
	facs := b.facs()
	dsdt := b.dsdt(&c)
	tables := []int{b.fadt(&c, facs, dsdt), b.madt(&c)}
	if c.Windows.ECAM != 0 {
		tables = append(tables, b.mcfg(&c))
	}
	b.rsdp(b.xsdt(tables))
	return &b.Tables
}

// rsdp makes the Root System Description Pointer (5.2.5.3), revision 2: no RSDT.
func (b *builder) rsdp(xsdt int) {
	p := make([]byte, 36)
	copy(p, "RSD PTR ")
	copy(p[9:], oemID)
	p[15], p[20] = 2, 36
	p[24], p[25], p[26], p[27] = byte(xsdt), byte(xsdt>>8), byte(xsdt>>16), byte(xsdt>>24)
	b.RSDP = p
	b.Commands = append(b.Commands,
		Command{File: FileRSDP, Offset: 24, Pointer: FileTables, Size: 8},
		Command{File: FileRSDP, Offset: 8, Start: 0, Length: 20},
		Command{File: FileRSDP, Offset: 32, Start: 0, Length: 36})
}

// xsdt makes the Extended System Description Table (5.2.8).
func (b *builder) xsdt(tables []int) int {
	at := b.begin("XSDT", 1)
	for _, t := range tables {
		b.qword(0)
		b.pointer(len(b.Tables.Tables)-8, 8, t)
	}
	b.end(at)
	return at
}

// mcfg makes the table of memory-mapped configuration space (PCI Firmware 3.2, 4.1.2).
func (b *builder) mcfg(c *Config) int {
	at := b.begin("MCFG", 1)
	b.zeros(8)
	b.qword(c.Windows.ECAM)
	b.word(0) // segment group
	b.bytes(0, c.LastBus)
	b.zeros(4)
	b.end(at)
	return at
}
