package pci

import "encoding/binary"

// ExpressType is the device/port type of the PCI Express capability (PCIe 4.0, 7.5.3.2).
type ExpressType uint8

// Device/port types.
const (
	ExpressEndpoint   ExpressType = 0 // below a root port
	ExpressRootPort   ExpressType = 4
	ExpressIntegrated ExpressType = 9 // endpoint on the root bus itself
)

// Offsets inside the PCI Express capability (PCIe 4.0, 7.5.3).
const (
	expCaps       = 0x02
	expDevCap     = 0x04
	expDevCtl     = 0x08
	expDevStatus  = 0x0a
	expLinkCap    = 0x0c
	expLinkCtl    = 0x10
	expLinkStatus = 0x12
	expSlotCap    = 0x14
	expSlotCtl    = 0x18
	expSlotStatus = 0x1a
	expRootCtl    = 0x1c
	expRootStatus = 0x20
	expLinkCap2   = 0x2c
	expLinkCtl2   = 0x30
	expSize       = 0x3c
)

const (
	expVersion         = 2
	expSlotImplemented = 1 << 8  // capabilities register
	devRoleBasedErrors = 1 << 15 // device capabilities, required by 2.x
	devCtlWritable     = 0x781f  // error reporting, relaxed ordering, no snoop, max read request
	devStatusErrors    = 0x000f
	linkSpeed2G5       = 1
	linkWidthX1        = 1 << 4
	linkActiveCapable  = 1 << 20 // link capabilities: data link layer active reporting
	linkActive         = 1 << 13 // link status
	linkCtlWritable    = 0x00c0  // common clock, extended synch
	slotPresence       = 1 << 6  // slot status: presence detect state
	slotNoCommand      = 1 << 18 // slot capabilities: no command completed support
)

// AddExpress appends the PCI Express capability. port is the port number of a root port and 0 for endpoints.
func (f *Function) AddExpress(kind ExpressType, port uint8) int {
	b := make([]byte, expSize)
	mask := make([]byte, expSize)
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	caps := uint16(expVersion) | uint16(kind)<<4
	put32(b[expDevCap:], devRoleBasedErrors)
	put16(mask[expDevCtl:], devCtlWritable)
	if kind != ExpressIntegrated { // integrated endpoints have no link
		put32(b[expLinkCap:], linkSpeed2G5|linkWidthX1|uint32(port)<<24)
		put16(b[expLinkStatus:], linkSpeed2G5|linkWidthX1)
		put16(mask[expLinkCtl:], linkCtlWritable)
		put32(b[expLinkCap2:], linkSpeed2G5<<1)
		put16(b[expLinkCtl2:], linkSpeed2G5)
	}
	if kind == ExpressRootPort {
		caps |= expSlotImplemented
		put32(b[expLinkCap:], linkSpeed2G5|linkWidthX1|linkActiveCapable|uint32(port)<<24)
		put32(b[expSlotCap:], slotNoCommand|uint32(port)<<19)
		put16(mask[expRootCtl:], 0x0f)
	}
	put16(b[expCaps:], caps)
	at := f.AddCapability(CapExpress, b[2:], mask[2:])
	binary.LittleEndian.PutUint16(f.space.w1c[at+expDevStatus:], devStatusErrors)
	f.space.express, f.express = true, at
	if kind == ExpressRootPort {
		binary.LittleEndian.PutUint16(f.space.volatile[at+expSlotStatus:], slotPresence)
		binary.LittleEndian.PutUint16(f.space.volatile[at+expLinkStatus:], linkActive)
	}
	return at
}
