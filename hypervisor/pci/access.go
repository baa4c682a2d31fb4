package pci

import (
	"encoding/binary"
	"sync/atomic"

	"virtd/hypervisor/bus"
)

// Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2).
const (
	// ConfigPortsBase and ConfigPortsSize are the I/O ports that ConfigPorts claims.
	ConfigPortsBase = 0xcf8
	ConfigPortsSize = 8

	configEnable = 1 << 31
)

// ConfigPorts is the pair of ports CF8 (address) and CFC (data). A PC's reset control register sits among them at CF9
// and answers byte accesses there.
type ConfigPorts struct {
	root    *Root
	reset   bus.Device
	address atomic.Uint32
}

// NewConfigPorts returns the ports for root. reset answers byte accesses to CF9 at offset 0 and may be nil.
func NewConfigPorts(root *Root, reset bus.Device) *ConfigPorts {
	return &ConfigPorts{root: root, reset: reset}
}

// Read implements bus.Device.
func (c *ConfigPorts) Read(offset uint64, p []byte) {
	switch {
	case offset == 0 && len(p) == 4:
		binary.LittleEndian.PutUint32(p, c.address.Load())
		return
	case offset == 1 && len(p) == 1 && c.reset != nil:
		c.reset.Read(0, p)
		return
	case offset >= 4 && int(offset)+len(p) <= ConfigPortsSize:
		if bus, devfn, reg, ok := c.decode(offset); ok {
			c.root.ConfigRead(bus, devfn, reg, p)
			return
		}
	}
	for i := range p {
		p[i] = 0xff
	}
}

// Write implements bus.Device.
func (c *ConfigPorts) Write(offset uint64, p []byte) {
	switch {
	case offset == 0 && len(p) == 4:
		// Bits 30 to 24 and 1 to 0 are reserved and read as zero.
		c.address.Store(binary.LittleEndian.Uint32(p) & 0x80fffffc)
	case offset == 1 && len(p) == 1 && c.reset != nil:
		c.reset.Write(0, p)
	case offset >= 4 && int(offset)+len(p) <= ConfigPortsSize:
		if bus, devfn, reg, ok := c.decode(offset); ok {
			c.root.ConfigWrite(bus, devfn, reg, p)
		}
	}
}

func (c *ConfigPorts) decode(offset uint64) (bus, devfn uint8, reg int, ok bool) {
	a := c.address.Load()
	return uint8(a >> 16), uint8(a >> 8), int(a&0xfc) + int(offset-4), a&configEnable != 0
}

// Address returns the CF8 register, for a saved state. SetAddress restores it.
func (c *ConfigPorts) Address() uint32 { return c.address.Load() }

// SetAddress restores what Address returned.
func (c *ConfigPorts) SetAddress(a uint32) { c.address.Store(a & 0x80fffffc) }

// ECAM is the memory-mapped view of configuration space: 1 MiB a bus (PCIe 4.0, 7.2.2). It implements bus.Device.
type ECAM struct{ root *Root }

// NewECAM returns the view of root. The q35 host bridge maps it by itself.
func NewECAM(root *Root) *ECAM { return &ECAM{root} }

// Read implements bus.Device.
func (e *ECAM) Read(offset uint64, p []byte) {
	e.root.ConfigRead(uint8(offset>>20), uint8(offset>>12), int(offset&0xfff), p)
}

// Write implements bus.Device.
func (e *ECAM) Write(offset uint64, p []byte) {
	e.root.ConfigWrite(uint8(offset>>20), uint8(offset>>12), int(offset&0xfff), p)
}
