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
	return f
}

// OnCommand calls call when COMMAND changed, by the guest or by Assign, with its new value: before the function's BARs can
// be reached because of it, and after they no longer can. Call it before Root.Add.
func (f *Function) OnCommand(call func(command uint16)) { f.onCommand = call }

// decodeCommand brings the decoding of BARs in step with registers that changed, COMMAND having been before.
func (f *Function) decodeCommand(before uint16) {
	now := f.Uint16(regCommand)
	if f.onCommand == nil || now == before {
		f.decodeChanged()
		return
	}
	const decode = commandIO | commandMemory
	opens := now&^before&decode != 0
	if opens {
		f.onCommand(now)
	}
	f.decodeChanged()
	if !opens {
		f.onCommand(now)
	}
}

// SetBytes is the device writing its own registers from offset on, whatever the guest may write there.
func (f *Function) SetBytes(offset int, p []byte) { f.set(offset, p) }

// Bytes copies the registers from offset on into p.
func (f *Function) Bytes(offset int, p []byte) {
	f.mu.Lock()
	copy(p, f.space.data[offset:])
	f.mu.Unlock()
}
