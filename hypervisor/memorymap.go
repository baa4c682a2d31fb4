package hypervisor

import (
	"fmt"

	"virtd/hypervisor/boot"
	"virtd/hypervisor/memory"
	"virtd/hypervisor/pci"
)

// The guest physical address space. It is part of the guest ABI: a pure function of the machine type, the size of RAM
// and the guest's physical address bits.
//
//	0x0000_0000  RAM; 0x9fc00 to 0xfffff are reserved in the map given to the guest, with ACPI tables at 0xe0000
//	             and SMBIOS at 0xf0000
//	             q35: low RAM ends at 0xb000_0000, or at 0x8000_0000 when RAM does not fit below
//	             pc:  low RAM ends at 0xe000_0000, or at 0xc000_0000 when RAM does not fit below
//	0xb000_0000  q35: ECAM, 256 MiB
//	0xc000_0000  PCI, 32-bit window (pc with less than 3.5 GiB: from 0xe000_0000)
//	0xfec0_0000  I/O APIC
//	0xfee0_0000  local APICs
//	0xfeff_c000  four pages that KVM needs on Intel processors
//	0xffc0_0000  room for firmware
//	4 GiB        the rest of RAM
//	             hole for memory hotplug, aligned to 1 GiB
//	             PCI, 64-bit window (pci.WindowsFor)
const (
	gib              = 1 << 30
	biosAreaStart    = 0x9fc00 // where real firmware has its extended data area
	biosAreaEnd      = 0x100000
	acpiTables       = 0xe0000
	acpiTablesSize   = 0x10000 // SMBIOS follows at 0xf0000
	ecamBase         = 0xb000_0000
	ecamSize         = 256 << 20
	pciWindow        = 0xc000_0000
	pciWindowEnd     = 0xfec0_0000
	ioapicBase       = 0xfec0_0000
	lapicBase        = 0xfee0_0000
	apicSize         = 1 << 20
	identityMapPage  = 0xfeff_c000
	tssPages         = 0xfeff_d000
	kvmPagesSize     = 4 * memory.PageSize
	above4G          = 4 * gib
	pciPortsBase     = 0xc000
	pciPortsSize     = 0x4000
	acpiPMBase       = 0x600
	minRAM           = 2 << 20
	hotplugAlignment = gib
)

// memoryMap is where everything is.
type memoryMap struct {
	ram     []memory.Range
	hotplug memory.Range // address space for RAM that is added later
	windows pci.Windows
	q35     bool
}

// lowRAMEnd returns where RAM below 4 GiB ends.
func lowRAMEnd(q35 bool, size uint64) uint64 {
	all, split := uint64(0xe000_0000), uint64(0xc000_0000)
	if q35 {
		all, split = ecamBase, 0x8000_0000
	}
	if size > all {
		return split
	}
	return size
}

// newMemoryMap lays out a machine of the given type and bytes of RAM for a guest with physBits address bits.
func newMemoryMap(machine string, size uint64, physBits int) (*memoryMap, error) {
	t, ok := machineTypes[machine]
	if !ok {
		return nil, fmt.Errorf("machine type %q is not one of this engine's (%s, %s and older ones)", machine, MachineQ35, MachinePC)
	}
	m := &memoryMap{q35: t.q35}
	if size < minRAM || size%memory.PageSize != 0 {
		return nil, fmt.Errorf("%d bytes of RAM: need a multiple of %d and at least %d MiB", size, memory.PageSize, minRAM>>20)
	}
	low := lowRAMEnd(m.q35, size)
	m.ram = []memory.Range{{GPA: 0, Size: low}}
	end := uint64(above4G)
	if size > low {
		m.ram = append(m.ram, memory.Range{GPA: above4G, Size: size - low})
		end += size - low
	}
	if physBits < 36 || physBits > 52 {
		return nil, fmt.Errorf("guest with %d physical address bits: need 36 to 52", physBits)
	}
	if end > 1<<physBits-gib || end > 1<<physBits {
		return nil, fmt.Errorf("%d MiB of RAM do not fit the guest's %d physical address bits", size>>20, physBits)
	}
	m.hotplug = hotplugHole(end, size, physBits)
	m.windows = pci.Windows{
		Memory32: pci.Range{Base: pciWindow, Size: pciWindowEnd - pciWindow},
		Memory64: pci.WindowsFor(m.hotplug.GPA+m.hotplug.Size, physBits),
		IO:       pci.Range{Base: pciPortsBase, Size: pciPortsSize},
		PMBase:   acpiPMBase,
	}
	if m.q35 {
		m.windows.ECAM = ecamBase
	} else if low > pciWindow {
		m.windows.Memory32 = pci.Range{Base: 0xe000_0000, Size: pciWindowEnd - 0xe000_0000}
	}
	return m, nil
}

// hotplugHole reserves as much as RAM, at least 32 GiB, above RAM, but no more than an eighth of the address space.
func hotplugHole(end, size uint64, physBits int) memory.Range {
	base := (end + hotplugAlignment - 1) &^ (hotplugAlignment - 1)
	n := uint64(32 * gib)
	for n < size {
		n *= 2
	}
	n = min(n, 1<<physBits/8)
	if base+n > 1<<physBits/2 {
		n = 0
	}
	return memory.Range{GPA: base, Size: n}
}

// reserved are the places where no PCI BAR may go.
func (m *memoryMap) reserved() []pci.Range {
	r := []pci.Range{{Base: ioapicBase, Size: apicSize}, {Base: lapicBase, Size: apicSize}, {Base: identityMapPage, Size: kvmPagesSize}}
	for _, ram := range m.ram {
		r = append(r, pci.Range{Base: ram.GPA, Size: ram.Size})
	}
	if m.hotplug.Size > 0 {
		r = append(r, pci.Range{Base: m.hotplug.GPA, Size: m.hotplug.Size})
	}
	return r
}

// entries is the memory map that the kernel is given.
func (m *memoryMap) entries() []boot.MapEntry {
	low := m.ram[0].Size
	e := []boot.MapEntry{
		{Base: 0, Size: biosAreaStart, Type: boot.RAM},
		{Base: biosAreaStart, Size: biosAreaEnd - biosAreaStart, Type: boot.Reserved},
		{Base: biosAreaEnd, Size: low - biosAreaEnd, Type: boot.RAM},
	}
	if m.q35 {
		e = append(e, boot.MapEntry{Base: ecamBase, Size: ecamSize, Type: boot.Reserved})
	}
	e = append(e, boot.MapEntry{Base: identityMapPage, Size: kvmPagesSize, Type: boot.Reserved})
	if len(m.ram) > 1 {
		e = append(e, boot.MapEntry{Base: m.ram[1].GPA, Size: m.ram[1].Size, Type: boot.RAM})
	}
	return e
}
