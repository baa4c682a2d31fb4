package acpi

import (
	"fmt"
	"slices"

	"virtd/hypervisor/chipset"
	"virtd/hypervisor/pci"
)

// dsdt makes the Differentiated System Description Table.
func (b *builder) dsdt(c *Config) int {
	at := b.begin("DSDT", 2)
	s5 := integer(uint64(c.Board.SleepTypeS5()))
	b.bytes(join(
		name(`\_S5`, pkg(s5, s5, integer(0), integer(0))),
		name(`\PICF`, integer(0)),
		method(`\_PIC`, 1, false, store(arg(0), nameString(`\PICF`))),
		scope(`\_SB`, join(processors(c), pciHost(c), motherboard(c), panicDevice(c))),
		events(c),
	)...)
	b.end(at)
	return at
}

// processors are devices with the UIDs that the MADT uses (8.4).
func processors(c *Config) aml {
	if c.CPUHotplug {
		return processorContainer(c)
	}
	var out aml
	for uid := range c.CPUs {
		out = append(out, device(processorName(uid), name("_HID", str("ACPI0007")), name("_UID", integer(uint64(uid))))...)
	}
	return out
}

// pciHost is PCI0: its windows, its interrupt routing and the ISA devices behind the LPC or ISA bridge.
func pciHost(c *Config) aml {
	ids := name("_HID", eisaID("PNP0A03"))
	bridge := uint64(1 << 16)
	var control aml
	if c.Board == Q35 {
		ids = join(name("_HID", eisaID("PNP0A08")), name("_CID", eisaID("PNP0A03")))
		bridge, control = 0x1f<<16, osc()
	}
	return device("PCI0", ids,
		name("_UID", integer(0)), name("_BBN", integer(0)), name("_SEG", integer(0)),
		control,
		name("_CRS", hostWindows(c)),
		routing(c),
		hotplug(c),
		device("ISA", name("_ADR", integer(bridge)), isaDevices(c)))
}

// hostWindows is what PCI gets: bus numbers that exist, ports without CF8 to CFF, VGA's hole and the two memory windows.
func hostWindows(c *Config) aml {
	w := c.Windows
	d := []aml{
		wordSpace(spaceBus, 0, 0, uint16(c.LastBus)),
		ioPort(pci.ConfigPortsBase, pci.ConfigPortsSize),
		wordSpace(spaceIO, entireRange, 0, 0xcf7),
		wordSpace(spaceIO, entireRange, 0xd00, 0xffff),
		dwordSpace(spaceMemory, readWriteCache, 0xa0000, 0xbffff),
		dwordSpace(spaceMemory, readWrite, uint32(w.Memory32.Base), uint32(w.Memory32.Last())),
	}
	if w.Memory64.Size != 0 {
		d = append(d, qwordSpace(spaceMemory, readWriteCache, w.Memory64.Base, w.Memory64.Last()))
	}
	return resources(d...)
}

// routing is _PRT (6.2.13): one table with I/O APIC inputs and one with the ISA interrupts that the PIRQ registers are
// set to, for guests without I/O APIC. Functions behind a root port use its slot: guests rotate pins as bridges do.
func routing(c *Config) aml {
	gsi, isa := pci.Q35PIRQ, func(pirq int) uint64 { return uint64(pci.PCPIRQLines[pirq%len(pci.PCPIRQLines)]) }
	apic := func(pirq int) uint64 { return uint64(pci.FirstPIRQGSI + pirq) }
	if c.Board == PC {
		gsi, apic = pci.PCPIRQ, isa
	}
	table := func(line func(int) uint64) aml {
		var entries []aml
		for _, slot := range slices.Sorted(slices.Values(c.Slots)) {
			for pin := range uint8(4) {
				entries = append(entries, pkg(integer(uint64(slot)<<16|0xffff), integer(uint64(pin)),
					integer(0), integer(line(gsi(slot, pin+1)))))
			}
		}
		return pkg(entries...)
	}
	if c.Board == PC {
		return name("_PRT", table(isa))
	}
	return join(name("PRTA", table(apic)), name("PRTP", table(isa)),
		method("_PRT", 0, false,
			ifTrue(nameString(`\PICF`), ret(nameString("PRTA"))),
			ret(nameString("PRTP"))))
}

// What _OSC lets the guest control (PCI Firmware 3.2, table 4-5): the PCI Express capability itself. Native hotplug, PME
// and AER stay with the platform: hotplug is ACPI's here, and the ports have none of the others.
const oscExpressCapability = 1 << 4

// osc is _OSC of a PCI Express host (6.2.11).
func osc() aml {
	cdw1, cdw3 := nameString("CDW1"), nameString("CDW3")
	return method("_OSC", 4, true,
		dwordField(arg(3), 0, "CDW1"),
		ifTrue(equal(arg(0), uuid("33db4d5b-1ff7-401c-9657-7441c03dd766")),
			dwordField(arg(3), 8, "CDW3"),
			and(cdw3, integer(oscExpressCapability), local(0)),
			ifTrue(not(equal(arg(1), integer(1))), or(cdw1, integer(0x08), cdw1)),
			ifTrue(not(equal(cdw3, local(0))), or(cdw1, integer(0x10), cdw1)),
			store(local(0), cdw3),
			ret(arg(3))),
		elseDo(or(cdw1, integer(0x04), cdw1), ret(arg(3))))
}

// isaDevices are what sits on the LPC or ISA bus and is found by its identifier.
func isaDevices(c *Config) aml {
	out := device("RTC", name("_HID", eisaID("PNP0B00")), name("_CRS", resources(ioPort(0x70, 2), irq(8))))
	ports := []struct {
		base uint16
		irq  uint8
	}{{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}}
	for _, s := range slices.Sorted(slices.Values(c.Serials)) {
		if s < 0 || int(s) >= len(ports) {
			continue
		}
		p := ports[s]
		out = append(out, device(fmt.Sprintf("COM%d", s+1), name("_HID", eisaID("PNP0501")), name("_UID", integer(uint64(s)+1)),
			name("_STA", integer(0x0f)), name("_CRS", resources(ioPort(p.base, 8), irq(p.irq))))...)
	}
	return out
}

// motherboard reserves what no driver owns: the PM block, the hotplug registers of PCI and processors, and ECAM.
func motherboard(c *Config) aml {
	d := []aml{ioPort(c.Windows.PMBase, 128)}
	if c.Board == PC {
		d[0] = ioPort(c.Windows.PMBase, 64)
	}
	d = append(d, ioPort(pci.HotplugPort, pci.HotplugPorts))
	if c.CPUHotplug {
		d = append(d, ioPort(chipset.CPUHotplugPort, chipset.CPUHotplugPorts))
	}
	if c.Windows.ECAM != 0 {
		d = append(d, memory32Fixed(uint32(c.Windows.ECAM), 256<<20))
	}
	return device("MB", name("_HID", eisaID("PNP0C02")), name("_UID", integer(1)), name("_CRS", resources(d...)))
}

// panicDevice is pvpanic (QEMU docs/specs/pvpanic.txt).
func panicDevice(c *Config) aml {
	if !c.PVPanic {
		return nil
	}
	return device("PEVT", name("_HID", str("QEMU0001")), name("_STA", integer(0x0b)),
		name("_CRS", resources(ioPort(PVPanicPort, 1))))
}
