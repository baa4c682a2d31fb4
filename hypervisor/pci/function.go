package pci

import (
	"encoding/binary"
	"fmt"
	"sync"

	"virtd/hypervisor/interrupt"
)

// Function is one PCI function: its configuration space, BARs, capabilities and interrupt pin. A device builds it with
// NewFunction and the Add methods and hands it to Root.Add; from then on its shape is fixed and the guest talks to it
// through ConfigRead and ConfigWrite.
//
// Locks, in the order they may be taken: access (one configuration access at a time, hooks included), the root's, mu. A
// hook runs with access held, a BAR callback with the root's lock held too; both may use the register accessors and
// SetINTx, and must not call ConfigRead, ConfigWrite or anything of Root.
type Function struct {
	access sync.Mutex
	mu     sync.Mutex // space, asserted
	space  space
	reset  []byte // data at power-on, taken by Root.Add

	identity Identity
	address  Address
	root     *Root // nil until added
	parent   *bridge
	bridge   *bridge // not nil: this function is one

	bars     [6]*bar
	decoders []*decoder
	onWrite  []hook
	onRead   []hook
	lastCap  int // offset of the last capability's next pointer
	freeCap  int
	lastExt  int
	freeExt  int
	express  int // offset of the PCI Express capability, 0 when none
	pmcsr    int // offset of the power management control register, 0 when none
	msix     *MSIX
	pin      uint8 // 0 none, 1 INTA# to 4 INTD#
	line     interrupt.Line
	asserted bool // the device wants its pin active
	onReset  func()

	rom *bar // nil when there is none

	onCommand func(uint16)       // see OnCommand
	onPower   func(at int) uint8 // see OnPower
	onPin     func(gsi int)      // see OnPin
	unwatch   func()             // ends onPin's calls; nil when there are none
}

type hook struct {
	offset, size int
	call         func(offset, n int)
	act          bool // the write is an act, which Restore does not repeat
}

// NewFunction returns a function with a type 0 header, no BAR, no capability and no interrupt pin.
func NewFunction(id Identity) *Function {
	f := newHeader(id)
	f.space.put16(regSubVendor, id.SubVendor)
	f.space.put16(regSubDevice, id.SubDevice)
	return f
}

// newHeader fills what type 0 and type 1 headers share.
func newHeader(id Identity) *Function {
	f := &Function{identity: id, space: newSpace(), lastCap: regCapPointer, freeCap: endHeader, freeExt: conventionalSize}
	s := &f.space
	s.put16(regVendor, id.Vendor)
	s.put16(regDevice, id.Device)
	s.put32(regRevision, id.Class<<8|uint32(id.Revision))
	binary.LittleEndian.PutUint16(s.writable[regCommand:],
		commandIO|commandMemory|commandMaster|commandParity|commandSERR|commandINTxDisable)
	binary.LittleEndian.PutUint16(s.w1c[regStatus:], statusErrors)
	s.volatile[regStatus] = statusINTx
	s.writable[regCacheLine] = 0xff
	s.writable[regIntLine] = 0xff
	return f
}

// Identity returns what NewFunction was given.
func (f *Function) Identity() Identity { return f.identity }

// Address returns where Root.Add put the function.
func (f *Function) Address() Address { return f.address }

// UseINTx gives the function an interrupt pin, 1 (INTA#) to 4 (INTD#). Call it before Root.Add.
func (f *Function) UseINTx(pin uint8) {
	f.pin = pin
	f.space.data[regIntPin] = pin
}

// OnPin calls call with the global system interrupt that the function's pin is wired to, interrupt.NoPin for none: when the
// function is added, when the guest steers it elsewhere, and with NoPin when it is removed. For a device whose pin the kernel
// drives, instead of SetINTx. It may be called with the access lock of another function held. Call it before Root.Add.
func (f *Function) OnPin(call func(gsi int)) { f.onPin = call }

// OnWrite calls call after each guest write that touches the size bytes at offset, with the offset and length of that
// write, which may be larger than the range. The registers hold the new value. Call it before Root.Add.
func (f *Function) OnWrite(offset, size int, call func(offset, n int)) {
	f.onWrite = append(f.onWrite, hook{offset: offset, size: size, call: call})
}

// OnAct is OnWrite for registers where the write itself does something, whatever value it leaves: Restore, which sets
// registers, does not call it. Call it before Root.Add.
func (f *Function) OnAct(offset, size int, call func(offset, n int)) {
	f.onWrite = append(f.onWrite, hook{offset: offset, size: size, call: call, act: true})
}

// OnRead calls call before each guest read that touches the size bytes at offset, so that the device can bring its
// registers up to date with the Set methods. Call it before Root.Add.
func (f *Function) OnRead(offset, size int, call func(offset, n int)) {
	f.onRead = append(f.onRead, hook{offset: offset, size: size, call: call})
}

// OnReset calls call when the machine or the bus resets the function, after its registers went back to their values at
// power-on and its BARs were unmapped. Call it before Root.Add.
func (f *Function) OnReset(call func()) { f.onReset = call }

func runHooks(hooks []hook, offset, n int) {
	for i := range hooks {
		if h := &hooks[i]; offset < h.offset+h.size && h.offset < offset+n {
			h.call(offset, n)
		}
	}
}

// ConfigRead is a guest read of len(p) bytes at offset. Any offset and length is allowed.
func (f *Function) ConfigRead(offset int, p []byte) {
	f.access.Lock()
	defer f.access.Unlock()
	runHooks(f.onRead, offset, len(p))
	f.mu.Lock()
	f.space.read(offset, p)
	f.mu.Unlock()
}

// ConfigWrite is a guest write of p at offset. Any offset and length is allowed; what is not writable stays.
func (f *Function) ConfigWrite(offset int, p []byte) {
	f.access.Lock()
	defer f.access.Unlock()
	f.mu.Lock()
	before := f.gates()
	changed := f.space.write(offset, p)
	f.updateINTx()
	f.mu.Unlock()
	if changed {
		f.gatesChanged(before)
		if f.msix != nil {
			f.msix.controlChanged()
		}
	}
	runHooks(f.onWrite, offset, len(p))
}

// Uint8 returns the register at offset.
func (f *Function) Uint8(offset int) uint8 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.space.data[offset]
}

// Uint16 returns the register at offset.
func (f *Function) Uint16(offset int) uint16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.space.u16(offset)
}

// Uint32 returns the register at offset.
func (f *Function) Uint32(offset int) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.space.u32(offset)
}

// SetUint8 is the device writing its own register, whatever the guest may write there.
func (f *Function) SetUint8(offset int, v uint8) { f.set(offset, []byte{v}) }

// SetUint16 is the device writing its own register, whatever the guest may write there.
func (f *Function) SetUint16(offset int, v uint16) {
	f.set(offset, binary.LittleEndian.AppendUint16(nil, v))
}

// SetUint32 is the device writing its own register, whatever the guest may write there.
func (f *Function) SetUint32(offset int, v uint32) {
	f.set(offset, binary.LittleEndian.AppendUint32(nil, v))
}

func (f *Function) set(offset int, p []byte) {
	f.mu.Lock()
	copy(f.space.data[offset:offset+len(p)], p)
	f.mu.Unlock()
}

// Writable makes the bits of mask at offset writable by the guest; mask has the width of the register. Call it before
// Root.Add.
func (f *Function) Writable(offset int, mask ...byte) { copy(f.space.writable[offset:], mask) }

// WriteOneToClear makes the bits of mask at offset such that a guest write of one clears them. Call it before Root.Add.
func (f *Function) WriteOneToClear(offset int, mask ...byte) { copy(f.space.w1c[offset:], mask) }

// BusMaster reports whether the guest lets the function access memory (and so send messages).
func (f *Function) BusMaster() bool { return f.Uint16(regCommand)&commandMaster != 0 }

// SetINTx drives the interrupt pin. The guest sees it in STATUS; the line follows unless COMMAND disables it. It does not
// allocate and is safe for concurrent use.
func (f *Function) SetINTx(active bool) {
	f.mu.Lock()
	f.asserted = active
	f.updateINTx()
	f.mu.Unlock()
}

// updateINTx brings STATUS and the line in step with the device and COMMAND. The caller holds mu.
func (f *Function) updateINTx() {
	if f.pin == 0 {
		return
	}
	if f.asserted {
		f.space.data[regStatus] |= statusINTx
	} else {
		f.space.data[regStatus] &^= statusINTx
	}
	if f.line != nil {
		f.line.Set(f.asserted && f.space.u16(regCommand)&commandINTxDisable == 0)
	}
}

// Reset puts the function back to power-on: registers, MSI-X, BARs and interrupt pin, then the device by OnReset.
func (f *Function) Reset() {
	f.access.Lock()
	defer f.access.Unlock()
	f.mu.Lock()
	if f.reset != nil {
		copy(f.space.data, f.reset)
	}
	f.asserted = false
	f.updateINTx()
	f.mu.Unlock()
	if f.msix != nil {
		f.msix.reset()
	}
	f.decodeChanged()
	if f.onReset != nil {
		f.onReset()
	}
}

func (f *Function) String() string {
	return fmt.Sprintf("PCI function %v (%04x:%04x)", f.address, f.identity.Vendor, f.identity.Device)
}
