package pci

import (
	"virtd/hypervisor/bus"
	"virtd/hypervisor/interrupt"
)

// The subsystem that firmware recognises as a virtual board (SeaBIOS and EDK2 look for it at 00:00.0).
const (
	SubsystemVendor = 0x1af4
	SubsystemDevice = 0x1100
)

// Q35 memory controller hub registers (Intel 3 Series Chipset, 316966, 5.1).
const (
	mchPCIEXBAR       = 0x60 // 64 bits
	mchPCIEXBARSize   = 256 << 20
	mchPCIEXBAREnable = 1 << 0
	mchPAM0           = 0x90 // seven registers
	mchSMRAM          = 0x9d
	mchESMRAMC        = 0x9e
)

// ICH9 LPC bridge registers (Intel I/O Controller Hub 9, 316972, 13.1).
const (
	lpcPMBASE      = 0x40
	lpcACPICntl    = 0x44
	lpcACPIEnable  = 1 << 7
	lpcPMBASEMask  = 0xff80
	lpcPIRQA       = 0x60 // to PIRQD at 0x63
	lpcPIRQE       = 0x68 // to PIRQH at 0x6b
	lpcGenPMCon1   = 0xa0
	lpcRCBA        = 0xf0
	lpcPMBlockSize = 128
)

// FirstPIRQGSI is the I/O APIC input of PIRQA on q35; PIRQB to PIRQH follow (ICH9 5.9.4).
const FirstPIRQGSI = 16

// Q35PIRQ returns the PIRQ input, 0 to 7, of a pin (1 is INTA#) of a slot on the q35 root bus. The DSDT's _PRT says the
// same, and a golden test holds the two together.
func Q35PIRQ(slot, pin uint8) int { return int(slot+pin-1) & 7 }

// Q35Config is what the chipset functions of the q35 board need.
type Q35Config struct {
	RootConfig // Interrupts is not used: the LPC bridge is the router
	Controller interrupt.Controller
	// PM answers the 128-byte ACPI block at the port that PMBASE names.
	PM bus.Device
}

// Q35 is the root complex of the q35 board: host bridge 00:00.0, LPC bridge 00:1f.0, and room for the rest.
type Q35 struct {
	*Root
	MCH, LPC *Function
}

// NewQ35 assembles the root complex.
func NewQ35(c Q35Config) (*Q35, error) {
	lpc, router := newICH9LPC(c)
	c.Interrupts = router
	q := &Q35{Root: NewRoot(c.RootConfig), LPC: lpc}
	q.MCH = newMCH(q.Root)
	if err := q.Add(Address{}, q.MCH); err != nil {
		return nil, err
	}
	return q, q.Add(Address{Slot: 0x1f}, lpc)
}

// newMCH returns the host bridge. Its PCIEXBAR maps ECAM.
func newMCH(r *Root) *Function {
	f := NewFunction(Identity{Vendor: 0x8086, Device: 0x29c0, Revision: 2, Class: 0x060000,
		SubVendor: SubsystemVendor, SubDevice: SubsystemDevice})
	// Base bits 35 to 28, enable bit. The length field is fixed at 256 MiB.
	f.Writable(mchPCIEXBAR, mchPCIEXBAREnable, 0, 0, 0xf0, 0x0f)
	for i := range 7 {
		f.Writable(mchPAM0+i, 0x33) // kept as written: this board has RAM there anyway
	}
	f.Writable(mchSMRAM, 0x50)
	f.Writable(mchESMRAMC, 0x07)
	f.decoders = append(f.decoders, &decoder{f: f, name: "PCIEXBAR", size: mchPCIEXBARSize, dev: NewECAM(r),
		target: func() (uint64, bool) {
			lo := f.Uint32(mchPCIEXBAR)
			return uint64(lo&0xf0000000) | uint64(f.Uint8(mchPCIEXBAR+4)&0x0f)<<32, lo&mchPCIEXBAREnable != 0
		}})
	return f
}

// newICH9LPC returns the LPC bridge and its interrupt steering. RCBA and the power management configuration are kept as
// written; nothing answers at RCBA.
func newICH9LPC(c Q35Config) (*Function, *pirqRouter) {
	f := NewFunction(Identity{Vendor: 0x8086, Device: 0x2918, Revision: 2, Class: 0x060100,
		SubVendor: SubsystemVendor, SubDevice: SubsystemDevice})
	f.SetMultiFunction() // as on the chip, whose other functions are 00:1f.2 and up
	f.space.data[lpcPMBASE] = barIO
	f.Writable(lpcPMBASE, byte(lpcPMBASEMask&0xff), byte(lpcPMBASEMask>>8))
	f.Writable(lpcACPICntl, lpcACPIEnable|7)
	f.Writable(lpcGenPMCon1, 0xff, 0xff)
	f.Writable(lpcRCBA, 0x01, 0xc0, 0xff, 0xff)
	f.decoders = append(f.decoders, &decoder{f: f, name: "PMBASE", size: lpcPMBlockSize, dev: c.PM, io: true,
		target: func() (uint64, bool) {
			base := uint64(f.Uint16(lpcPMBASE) & lpcPMBASEMask)
			return base, base != 0 && c.PM != nil && f.Uint8(lpcACPICntl)&lpcACPIEnable != 0
		}})
	regs := make([]int, 8)
	for i := range 4 {
		regs[i], regs[i+4] = lpcPIRQA+i, lpcPIRQE+i
	}
	return f, newPIRQ(f, c.Controller, regs, FirstPIRQGSI, Q35PIRQ)
}
