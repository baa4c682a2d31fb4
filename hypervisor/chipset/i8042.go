package chipset

import (
	"encoding/json"
	"fmt"
	"sync"

	"virtd/hypervisor/interrupt"
)

// Ports of the keyboard controller and its interrupt (IBM PS/2 technical reference, keyboard and auxiliary device
// controller).
const (
	I8042DataPort    = 0x60
	I8042CommandPort = 0x64
	I8042IRQ         = 1
)

// Status bits and commands of the controller.
const (
	kbdOutFull, kbdInFull, kbdSystem, kbdCommand, kbdUnlocked = 1, 2, 4, 8, 0x10

	kbdIntEnable = 1 // of the command byte
	kbdDisable   = 0x10
	kbdTranslate = 0x40
)

// I8042 is a keyboard controller with a keyboard that nobody types on and no mouse. It answers what drivers ask while
// they probe, and pulses the reset line.
type I8042 struct {
	line  interrupt.Line
	reset func()

	mu      sync.Mutex
	regs    i8042Regs
	lineSet bool
}

type i8042Regs struct {
	Version int
	Mode    uint8   // command byte
	OutPort uint8   // output port: bit 1 gates A20
	Out     []uint8 // bytes that wait for the driver, the oldest first
	Pending uint8   // command whose parameter comes through the data port
	KbdArg  uint8   // keyboard command that waits for its parameter
}

// maxKbdOut is how many answers wait; a driver that never reads loses the rest.
const maxKbdOut = 16

// NewI8042 returns the controller. reset is called when the guest pulses the reset line.
func NewI8042(line interrupt.Line, reset func()) *I8042 {
	k := &I8042{line: line, reset: reset}
	k.Reset()
	return k
}

// Reset is a power-on reset.
func (k *I8042) Reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.regs = i8042Regs{Version: 1, Mode: kbdIntEnable | kbdSystem | kbdTranslate, OutPort: 0xdf}
	k.update()
}

// Data answers port 0x60, Command port 0x64; each implements bus.Device for one port.
func (k *I8042) Data() I8042Port    { return I8042Port{k, false} }
func (k *I8042) Command() I8042Port { return I8042Port{k, true} }

// I8042Port is one of the controller's two ports.
type I8042Port struct {
	k       *I8042
	command bool
}

// Read implements bus.Device.
func (p I8042Port) Read(_ uint64, b []byte) {
	for i := range b {
		b[i] = 0xff
	}
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	r := &p.k.regs
	if p.command {
		b[0] = kbdUnlocked | r.Mode&kbdSystem
		if len(r.Out) > 0 {
			b[0] |= kbdOutFull
		}
		return
	}
	b[0] = 0
	if len(r.Out) > 0 {
		b[0] = r.Out[0]
		r.Out = r.Out[:copy(r.Out, r.Out[1:])]
		// An edge for each byte: lower the line between two.
		p.k.line.Set(false)
		p.k.lineSet = false
	}
	p.k.update()
}

// Write implements bus.Device.
func (p I8042Port) Write(_ uint64, b []byte) {
	p.k.mu.Lock()
	var pulse bool
	if p.command {
		pulse = p.k.commandByte(b[0])
	} else {
		pulse = p.k.dataByte(b[0])
	}
	p.k.update()
	p.k.mu.Unlock()
	if pulse {
		p.k.reset()
	}
}

func (k *I8042) update() {
	high := len(k.regs.Out) > 0 && k.regs.Mode&kbdIntEnable != 0
	if high != k.lineSet {
		k.lineSet = high
		k.line.Set(high)
	}
}

func (k *I8042) answer(b ...uint8) {
	if len(k.regs.Out)+len(b) <= maxKbdOut {
		k.regs.Out = append(k.regs.Out, b...)
	}
}

// commandByte executes a controller command and reports whether it pulses the reset line.
func (k *I8042) commandByte(c uint8) (pulse bool) {
	r := &k.regs
	r.Pending = 0
	switch {
	case c == 0x20:
		k.answer(r.Mode)
	case c == 0x60, c == 0xd1, c == 0xd2, c == 0xd3, c == 0xd4:
		r.Pending = c
	case c == 0xa9: // test the mouse port: clock line stuck low
		k.answer(0x01)
	case c == 0xaa: // self test
		r.Mode |= kbdSystem
		k.answer(0x55)
	case c == 0xab: // test the keyboard port: good
		k.answer(0x00)
	case c == 0xad:
		r.Mode |= kbdDisable
	case c == 0xae:
		r.Mode &^= kbdDisable
	case c == 0xc0:
		k.answer(0x80)
	case c == 0xd0:
		k.answer(r.OutPort)
	case c == 0xdd:
		r.OutPort &^= 2
	case c == 0xdf:
		r.OutPort |= 2
	case c >= 0xf0: // pulse the output port's low bits that are 0; bit 0 is reset
		return c&1 == 0
	}
	return false
}

// dataByte takes a parameter or a byte for the keyboard.
func (k *I8042) dataByte(v uint8) (pulse bool) {
	r := &k.regs
	c := r.Pending
	r.Pending = 0
	switch c {
	case 0x60:
		r.Mode = v
	case 0xd1:
		r.OutPort = v
		return v&1 == 0
	case 0xd2:
		k.answer(v)
	case 0xd3, 0xd4: // no mouse: nothing comes back
	default:
		k.keyboard(v)
	}
	return false
}

// keyboard executes a keyboard command: acknowledge, and what the command returns.
func (k *I8042) keyboard(v uint8) {
	const ack = 0xfa
	if k.regs.KbdArg != 0 {
		arg := k.regs.KbdArg
		k.regs.KbdArg = 0
		if k.answer(ack); arg == 0xf0 && v == 0 {
			k.answer(2) // scan code set
		}
		return
	}
	switch v {
	case 0xff:
		k.answer(ack, 0xaa)
	case 0xf2: // identify: MF2, with translation
		k.answer(ack, 0xab, 0x41)
	case 0xed, 0xf0, 0xf3:
		k.regs.KbdArg = v
		k.answer(ack)
	case 0xee:
		k.answer(0xee)
	default:
		k.answer(ack)
	}
}

// Save returns the chip's state.
func (k *I8042) Save() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return json.Marshal(k.regs)
}

// Restore sets what Save returned.
func (k *I8042) Restore(state []byte) error {
	var r i8042Regs
	if err := json.Unmarshal(state, &r); err != nil {
		return fmt.Errorf("restore keyboard controller: %w", err)
	}
	if r.Version != 1 || len(r.Out) > maxKbdOut {
		return fmt.Errorf("restore keyboard controller: state of version %d with %d bytes is not one of ours", r.Version, len(r.Out))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.regs = r
	k.update()
	return nil
}
