package pci

import "encoding/binary"

// AddCapability appends a capability to the list (PCI 3.0, 6.7) and returns its offset. body is what follows the
// identifier and the next pointer; writable has a mask of guest-writable bits for each byte of body and may be shorter
// or nil. It panics when configuration space is full, which only the device's own code can cause. Call it before
// Root.Add.
func (f *Function) AddCapability(id byte, body, writable []byte) int {
	at := f.freeCap
	end := at + 2 + len(body)
	if end > conventionalSize {
		panic("pci: no room for a capability")
	}
	s := &f.space
	s.data[f.lastCap] = byte(at)
	s.data[at] = id
	copy(s.data[at+2:], body)
	copy(s.writable[at+2:end], writable)
	s.data[regStatus] |= statusCaps
	f.lastCap, f.freeCap = at+1, (end+3)&^3
	return at
}

// AddExtendedCapability appends an extended capability (PCIe 4.0, 7.6.3) and returns its offset. body is what follows
// the 32-bit header. The function must have the PCI Express capability. Call it before Root.Add.
func (f *Function) AddExtendedCapability(id uint16, version uint8, body, writable []byte) int {
	if f.express == 0 {
		panic("pci: an extended capability needs the PCI Express capability first")
	}
	s := &f.space
	if len(s.data) < expressSize {
		s.grow(expressSize)
	}
	at := f.freeExt
	end := at + 4 + len(body)
	if end > expressSize {
		panic("pci: no room for an extended capability")
	}
	s.put32(at, uint32(id)|uint32(version)<<16)
	copy(s.data[at+4:], body)
	copy(s.writable[at+4:end], writable)
	if f.lastExt != 0 {
		s.put32(f.lastExt, s.u32(f.lastExt)|uint32(at)<<20)
	}
	f.lastExt, f.freeExt = at, (end+3)&^3
	return at
}

// AddVendorCapability appends a vendor-specific capability (PCI 3.0, appendix H; virtio 1.2, 4.1.4): identifier, next
// pointer, length, then body. It returns the offset of the identifier.
func (f *Function) AddVendorCapability(body, writable []byte) int {
	var mask []byte
	if writable != nil {
		mask = append([]byte{0}, writable...)
	}
	return f.AddCapability(CapVendor, append([]byte{byte(3 + len(body))}, body...), mask)
}

// AddSubsystem appends the subsystem identifier capability, which bridges have in place of the header fields
// (PCI-to-PCI Bridge 1.2, 3.2.4.13).
func (f *Function) AddSubsystem(vendor, device uint16) int {
	body := make([]byte, 6)
	binary.LittleEndian.PutUint16(body[2:], vendor)
	binary.LittleEndian.PutUint16(body[4:], device)
	return f.AddCapability(CapSubsystem, body, nil)
}

// Power management registers (PCI Power Management 1.2, 3.2).
const (
	pmVersion3    = 3      // PMC
	pmStateMask   = 3      // PMCSR
	pmNoSoftReset = 1 << 3 // PMCSR: D3hot keeps the configuration
)

// AddPowerManagement appends the power management capability: D0 and D3hot, no PME, configuration kept in D3hot. In D3hot
// the function answers configuration accesses only.
func (f *Function) AddPowerManagement() int {
	at := f.AddCapability(CapPowerManagement,
		[]byte{pmVersion3, 0, pmNoSoftReset, 0, 0, 0},
		[]byte{0, 0, pmStateMask, 0, 0, 0})
	f.pmcsr = at + 4
	return at
}
