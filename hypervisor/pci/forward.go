package pci

import "encoding/binary"

// NewForwarded returns a function that stands for a device elsewhere, with that device's configuration space of 256 or 4096
// bytes, its capability list as it is. The header is the function's own: the device adds its BARs, AddMSIXAt and Writable
// make registers behave, and hooks carry the others to the device and back.
func NewForwarded(config []byte) *Function {
	le := binary.LittleEndian
	f := NewFunction(Identity{
		Vendor: le.Uint16(config[regVendor:]), Device: le.Uint16(config[regDevice:]), Revision: config[regRevision],
		Class: le.Uint32(config[regRevision:]) >> 8, SubVendor: le.Uint16(config[regSubVendor:]), SubDevice: le.Uint16(config[regSubDevice:]),
	})
	if len(config) >= expressSize {
		f.space.grow(expressSize)
		f.space.express = true
	}
	s := &f.space
	copy(s.data[endHeader:], config[endHeader:])
	s.data[regCapPointer] = config[regCapPointer]
	s.put16(regStatus, le.Uint16(config[regStatus:]))
	f.freeCap, f.freeExt = conventionalSize, expressSize // the lists are complete
	f.findPower()
	return f
}

// findPower finds the power management register in a capability list that is there already. The function is in D0.
func (f *Function) findPower() {
	s := &f.space
	if s.u16(regStatus)&statusCaps == 0 {
		return
	}
	at := int(s.data[regCapPointer]) &^ 3
	for n := 0; at >= endHeader && at+8 <= conventionalSize && n < 48; n++ {
		if s.data[at] == CapPowerManagement {
			f.pmcsr = at + 4
			s.data[f.pmcsr] &^= pmStateMask
			return
		}
		at = int(s.data[at+1]) &^ 3
	}
}

// OnCommand calls call when COMMAND changed, by the guest or by Assign, with its new value: before the function's BARs can
// be reached because of it, and after they no longer can. Call it before Root.Add.
func (f *Function) OnCommand(call func(command uint16)) { f.onCommand = call }

// OnPower calls call when the guest changed the power state in the register at offset at (PM 1.2, 3.2.4): before the function's
// BARs can be reached because of it, and after they no longer can. It returns the state that the device has now, 0 to 3. Call
// it before Root.Add.
func (f *Function) OnPower(call func(at int) (state uint8)) { f.onPower = call }

// gates are the registers that let a function's BARs be reached.
type gates struct {
	command uint16
	power   uint8 // D0 to D3
}

// gates reads them. The caller holds mu.
func (f *Function) gates() gates {
	g := gates{command: f.space.u16(regCommand)}
	if f.pmcsr != 0 {
		g.power = f.space.data[f.pmcsr] & pmStateMask
	}
	return g
}

// gatesChanged brings the decoding of BARs in step with registers that changed, the gates having been before.
func (f *Function) gatesChanged(before gates) {
	f.mu.Lock()
	now := f.gates()
	f.mu.Unlock()
	if f.onPower != nil && now.power != before.power && now.power == 0 {
		f.powerChanged(now.power)
	}
	const decode = commandIO | commandMemory
	tell := f.onCommand != nil && now.command != before.command
	opens := now.command&^before.command&decode != 0
	if tell && opens {
		f.onCommand(now.command)
	}
	f.decodeChanged()
	if tell && !opens {
		f.onCommand(now.command)
	}
	if f.onPower != nil && now.power != before.power && now.power != 0 && f.powerChanged(now.power) != now.power {
		f.decodeChanged() // it did not follow
	}
}

// powerChanged tells the device of its power state, and notes the one that it has then.
func (f *Function) powerChanged(wanted uint8) uint8 {
	state := f.onPower(f.pmcsr) & pmStateMask
	if state != wanted {
		f.SetUint8(f.pmcsr, f.Uint8(f.pmcsr)&^pmStateMask|state)
	}
	return state
}

// SetBytes is the device writing its own registers from offset on, whatever the guest may write there.
func (f *Function) SetBytes(offset int, p []byte) { f.set(offset, p) }

// Bytes copies the registers from offset on into p.
func (f *Function) Bytes(offset int, p []byte) {
	f.mu.Lock()
	copy(p, f.space.data[offset:])
	f.mu.Unlock()
}
