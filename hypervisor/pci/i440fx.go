package pci

import (
	"virtd/hypervisor/bus"
	"virtd/hypervisor/interrupt"
)

// 82441FX (i440FX, 290549, 3.2), PIIX3 (290550, 2.2) and PIIX4 power management (290562, 7.1) registers.
const (
	pmcPAM0        = 0x59 // seven registers
	pmcSMRAM       = 0x72
	piixPIRQA      = 0x60 // to PIRQD at 0x63
	piixPMBA       = 0x40
	piixPMBAMask   = 0xffc0
	piixPMRegMisc  = 0x80
	piixPMIOSE     = 1 << 0
	piixPMSize     = 64
	piixSCILine    = 9
	piixPCIISAIRQs = 4
)

// PCPIRQ returns the PIRQ input, 0 to 3, of a pin (1 is INTA#) of a slot on the bus of the pc board.
func PCPIRQ(slot, pin uint8) int { return int(slot+pin-2) & 3 }

// PCPIRQLines are the ISA interrupts, which are I/O APIC inputs too, that Assign steers PIRQA to PIRQD of the pc board to.
var PCPIRQLines = [piixPCIISAIRQs]uint8{10, 10, 11, 11}

// I440FXConfig is what the chipset functions of the pc board need.
type I440FXConfig struct {
	RootConfig // Interrupts is not used: the PIIX3 is the router
	Controller interrupt.Controller
	// PM answers the 64-byte ACPI block at the port that PMBA names.
	PM bus.Device
}

// I440FX is the PCI side of the pc board: host bridge 00:00.0, PIIX3 ISA bridge 00:01.0, PIIX4 power management 00:01.3.
type I440FX struct {
	*Root
	PMC, ISA, PM *Function
}

// NewI440FX assembles the board's PCI side.
func NewI440FX(c I440FXConfig) (*I440FX, error) {
	isa := NewFunction(Identity{Vendor: 0x8086, Device: 0x7000, Class: 0x060100,
		SubVendor: SubsystemVendor, SubDevice: SubsystemDevice})
	regs := []int{piixPIRQA, piixPIRQA + 1, piixPIRQA + 2, piixPIRQA + 3}
	c.Interrupts = newPIRQ(isa, c.Controller, regs, -1, PCPIRQ)
	b := &I440FX{Root: NewRoot(c.RootConfig), ISA: isa, PMC: newPMC(), PM: newPIIX4PM(c.PM)}
	for _, p := range []struct {
		at Address
		f  *Function
	}{{Address{}, b.PMC}, {Address{Slot: 1}, b.ISA}, {Address{Slot: 1, Function: 3}, b.PM}} {
		if err := b.Add(p.at, p.f); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func newPMC() *Function {
	f := NewFunction(Identity{Vendor: 0x8086, Device: 0x1237, Revision: 2, Class: 0x060000,
		SubVendor: SubsystemVendor, SubDevice: SubsystemDevice})
	for i := range 7 {
		f.Writable(pmcPAM0+i, 0x33) // kept as written: this board has RAM there anyway
	}
	f.Writable(pmcSMRAM, 0x58)
	return f
}

func newPIIX4PM(pm bus.Device) *Function {
	f := NewFunction(Identity{Vendor: 0x8086, Device: 0x7113, Revision: 3, Class: 0x068000,
		SubVendor: SubsystemVendor, SubDevice: SubsystemDevice})
	f.space.data[regIntPin] = 1 // the SCI, which is wired to line 9 and not steered
	f.space.data[piixPMBA] = barIO
	f.Writable(piixPMBA, byte(piixPMBAMask&0xff), byte(piixPMBAMask>>8))
	f.Writable(piixPMRegMisc, piixPMIOSE)
	f.decoders = append(f.decoders, &decoder{f: f, name: "PMBA", size: piixPMSize, dev: pm, io: true,
		target: func() (uint64, bool) {
			base := uint64(f.Uint16(piixPMBA) & piixPMBAMask)
			return base, base != 0 && pm != nil && f.Uint8(piixPMRegMisc)&piixPMIOSE != 0
		}})
	return f
}
