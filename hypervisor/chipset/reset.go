package chipset

import "sync/atomic"

// CF9 is the reset control register (ICH9 13.7.5; PIIX3 2.5.1 TRCR). Bit 2 going from 0 to 1 resets.
type CF9 struct {
	reset func()
	value atomic.Uint32
}

// NewCF9 returns the register. pci.ConfigPorts hands it accesses to port 0xcf9.
func NewCF9(reset func()) *CF9 { return &CF9{reset: reset} }

// Read implements bus.Device.
func (c *CF9) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = 0
	}
	p[0] = uint8(c.value.Load())
}

// Write implements bus.Device.
func (c *CF9) Write(_ uint64, p []byte) {
	const rstCPU, keep = 0x04, 0x0e
	v := uint32(p[0])
	if old := c.value.Swap(v & (keep &^ rstCPU)); v&rstCPU != 0 && old&rstCPU == 0 {
		c.reset()
	}
}

// Reset clears the register.
func (c *CF9) Reset() { c.value.Store(0) }

// Port92Address is the PS/2 system control port A.
const Port92Address = 0x92

// Port92 is system control port A (ICH9 13.7.3, PORT92): bit 0 going to 1 resets, bit 1 gates A20, which is always open
// here.
type Port92 struct {
	reset func()
	value atomic.Uint32
}

// NewPort92 returns the port.
func NewPort92(reset func()) *Port92 {
	p := &Port92{reset: reset}
	p.Reset()
	return p
}

// Reset opens the A20 gate.
func (p *Port92) Reset() { p.value.Store(2) }

// Read implements bus.Device.
func (p *Port92) Read(_ uint64, b []byte) {
	clear(b)
	b[0] = uint8(p.value.Load())
}

// Write implements bus.Device.
func (p *Port92) Write(_ uint64, b []byte) {
	old := p.value.Swap(uint32(b[0]) & 2)
	if b[0]&1 != 0 && old&1 == 0 {
		p.reset()
	}
}
