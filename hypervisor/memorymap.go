package hypervisor

import (
	"fmt"
	"math/bits"
	"strings"

	"virtd/hypervisor/boot"
	"virtd/hypervisor/memory"
	"virtd/hypervisor/pci"
)

// The guest physical address space. It is part of the guest ABI: a pure function of the machine type, the size of RAM
// and the guest's physical address bits; and, for a guest that starts with devices of the host, of where their IOMMU reaches
// (RAM is placed around what it does not reach).
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
//	             PCI, 64-bit window (window64)
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
	hugePage         = 2 << 20
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

// mapConfig is what the memory map follows from.
type mapConfig struct {
	machine  string
	ram      uint64 // bytes
	physBits int    // address bits of the guest
	// reach are the addresses, in order, where devices of the host that the guest has reach memory: all of RAM must be there. nil
	// is everywhere.
	reach []memory.Range
	// pciHole64 is how many bytes the 64-bit window of PCI has; 0 follows from the machine type.
	pciHole64 uint64
}

// newMemoryMap lays out a machine.
func newMemoryMap(c mapConfig) (*memoryMap, error) {
	t, ok := machineTypes[c.machine]
	if !ok {
		return nil, fmt.Errorf("machine type %q is not one of this engine's (%s, %s and older ones)", c.machine, MachineQ35, MachinePC)
	}
	m := &memoryMap{q35: t.q35}
	if c.ram < minRAM || c.ram%memory.PageSize != 0 {
		return nil, fmt.Errorf("%d bytes of RAM: need a multiple of %d and at least %d MiB", c.ram, memory.PageSize, minRAM>>20)
	}
	if c.physBits < 36 || c.physBits > 52 {
		return nil, fmt.Errorf("guest with %d physical address bits: need 36 to 52", c.physBits)
	}
	if err := m.placeRAM(c); err != nil {
		return nil, err
	}
	end := uint64(above4G)
	if last := m.ram[len(m.ram)-1]; len(m.ram) > 1 {
		end = last.GPA + last.Size
	}
	m.hotplug = hotplugHole(end, c.ram, c.physBits)
	if c.reach != nil && !reached(m.hotplug, c.reach) {
		m.hotplug.Size = 0
	}
	window, err := window64(m.hotplug.GPA+m.hotplug.Size, t, c)
	if err != nil {
		return nil, err
	}
	m.windows = pci.Windows{
		Memory32: pci.Range{Base: pciWindow, Size: pciWindowEnd - pciWindow},
		Memory64: window,
		Share:    t.largeBARs,
		IO:       pci.Range{Base: pciPortsBase, Size: pciPortsSize},
		PMBase:   acpiPMBase,
	}
	if m.q35 {
		m.windows.ECAM = ecamBase
	} else if m.ram[0].Size > pciWindow {
		m.windows.Memory32 = pci.Range{Base: 0xe000_0000, Size: pciWindowEnd - 0xe000_0000}
	}
	return m, nil
}

// leastLowRAM is what must be below the first address that devices do not reach, for a kernel and its initrd.
const leastLowRAM = 256 << 20

// placeRAM puts RAM below and above the hole at 4 GiB, around what devices do not reach.
func (m *memoryMap) placeRAM(c mapConfig) error {
	low := lowRAMEnd(m.q35, c.ram)
	if c.reach != nil && !reached(memory.Range{Size: low}, c.reach) {
		first := uint64(0)
		if len(c.reach) > 0 && c.reach[0].GPA == 0 {
			first = c.reach[0].Size
		}
		low = min(lowRAMEnd(m.q35, 1<<62), first&^(hugePage-1))
		if low < leastLowRAM {
			return fmt.Errorf("devices of the host cannot reach guest RAM at %#x to %#x: their IOMMU reaches %s", first, c.ram-1, describeReach(c.reach))
		}
		low = min(low, c.ram)
	}
	m.ram = []memory.Range{{GPA: 0, Size: low}}
	limit := uint64(1)<<c.physBits - gib
	reach := c.reach
	if reach == nil {
		reach = []memory.Range{{Size: limit}}
	}
	left := c.ram - low
	for _, r := range reach {
		base := max(r.GPA, above4G)
		base = (base + hotplugAlignment - 1) &^ (hotplugAlignment - 1)
		end := min(r.GPA+r.Size, limit)
		if left == 0 || base >= end {
			continue
		}
		n := min(left, (end-base)&^(gib-1))
		if end-base >= left {
			n = left
		}
		if n > 0 {
			m.ram = append(m.ram, memory.Range{GPA: base, Size: n})
			left -= n
		}
	}
	switch {
	case left == 0:
		return nil
	case c.reach != nil:
		return fmt.Errorf("%d MiB of RAM do not fit the guest's %d physical address bits where devices of the host reach them: their IOMMU reaches %s",
			c.ram>>20, c.physBits, describeReach(c.reach))
	}
	return fmt.Errorf("%d MiB of RAM do not fit the guest's %d physical address bits", c.ram>>20, c.physBits)
}

// reached reports whether one of the ranges has all of r.
func reached(r memory.Range, reach []memory.Range) bool {
	for _, have := range reach {
		if r.GPA >= have.GPA && r.GPA+r.Size <= have.GPA+have.Size {
			return true
		}
	}
	return false
}

func describeReach(reach []memory.Range) string {
	if len(reach) == 0 {
		return "nothing"
	}
	var out []string
	for _, r := range reach {
		out = append(out, fmt.Sprintf("%#x to %#x", r.GPA, r.GPA+r.Size-1))
	}
	return strings.Join(out, ", ")
}

// Bounds of the 64-bit window, in bytes, where it follows from the machine type.
const (
	leastWindow64 = 32 * gib
	mostWindow64  = 1 << 40
)

// window64 lays PCI's 64-bit window above end. It is where devices of the host reach it, for DMA between them, if there is room.
func window64(end uint64, t machineType, c mapConfig) (pci.Range, error) {
	limit := pci.Range{Size: 1 << c.physBits}
	var reach []pci.Range
	for _, r := range c.reach {
		reach = append(reach, pci.Range{Base: r.GPA, Size: r.Size})
	}
	if c.pciHole64 != 0 {
		size := uint64(1) << bits.Len64(c.pciHole64-1)
		for _, within := range append(reach, limit) {
			if w := pci.WindowWithin(within, end, limit.Size, size); w.Size != 0 {
				return w, nil
			}
		}
		return pci.Range{}, fmt.Errorf("a 64-bit PCI window (pcihole64) of %d GiB does not fit the guest's %d physical address bits above %#x",
			size/gib, c.physBits, end)
	}
	size := max(uint64(leastWindow64), uint64(1)<<bits.Len64(end-1))
	if t.largeBARs {
		size = max(size, min(uint64(1)<<c.physBits/4, mostWindow64))
	}
	for _, all := range [][]pci.Range{reach, {limit}} {
		for n := size; n >= gib; n >>= 1 {
			for _, within := range all {
				if w := pci.WindowWithin(within, end, limit.Size, n); w.Size != 0 {
					return w, nil
				}
			}
		}
	}
	return pci.Range{}, nil
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
	for _, r := range m.ram[1:] {
		e = append(e, boot.MapEntry{Base: r.GPA, Size: r.Size, Type: boot.RAM})
	}
	return e
}
