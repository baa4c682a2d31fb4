package chipset

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"virtd/hypervisor/interrupt"
)

// ACPI fixed hardware (ACPI 6.4, 4.8.3) as the ICH9 has it (316972, 13.8.3). Offsets in the power management block.
const (
	PMBase   = 0x600 // port of the block, as firmware programs it
	SCI      = 9     // interrupt of the block, level-triggered
	PM1Event = 0x00  // status, 16 bits, then enable
	PM1Ctrl  = 0x04
	PMTimer  = 0x08 // 24 bits
	pmSMIEn  = 0x30
	pmSMISts = 0x34

	maxGPE = 8 // bytes of status, and as many of enable
)

// PMTimerHz is the frequency of the power management timer (ACPI 6.4, 4.8.2.1).
const PMTimerHz = 3579545

// Bits of the PM1 registers (ACPI 6.4, 4.8.3.1 and 4.8.3.2).
const (
	pm1Timer  = 1 << 0
	pm1Global = 1 << 5
	pm1Power  = 1 << 8
	pm1Sleep  = 1 << 9
	pm1RTC    = 1 << 10
	pm1Wake   = 1 << 15
	pm1All    = pm1Timer | pm1Global | pm1Power | pm1Sleep | pm1RTC

	ctlSCI       = 1 << 0
	ctlSleep     = 1 << 13
	ctlTypeShift = 10
)

// ACPIPMConfig is where the boards differ.
type ACPIPMConfig struct {
	GPE0     uint64 // offset of the general purpose event block
	GPE0Size uint64 // bytes of it: half status, half enable
	S5       uint8  // SLP_TYP of soft off
}

// ACPIPM is the power management block: power button, timer, general purpose events, soft off. It implements bus.Device
// over the block's 128 bytes (64 on the PIIX4).
type ACPIPM struct {
	cfg      ACPIPMConfig
	clock    Clock
	sci      interrupt.Line
	powerOff func()

	mu    sync.Mutex
	regs  pmRegs
	high  bool
	carry *time.Timer // runs while timer interrupts are enabled
}

type pmRegs struct {
	Version   int
	Status    uint16
	Enable    uint16
	Control   uint16
	GPEStatus [maxGPE]uint8
	GPEEnable [maxGPE]uint8
	SMI       uint32
	TimerSeen uint32 // timer's top bit when its status was last brought up to date
}

// NewACPIPM returns the block. powerOff is called when the guest enters S5.
func NewACPIPM(cfg ACPIPMConfig, clock Clock, sci interrupt.Line, powerOff func()) *ACPIPM {
	p := &ACPIPM{cfg: cfg, clock: clock, sci: sci, powerOff: powerOff}
	p.carry = time.AfterFunc(time.Hour, p.timerCarry)
	p.carry.Stop()
	p.Reset()
	return p
}

// Reset is a power-on reset. ACPI mode is always on: there is no SMI handler that would switch it.
func (p *ACPIPM) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.regs = pmRegs{Version: 1, Control: ctlSCI}
	p.regs.TimerSeen = p.timer() & timerTop
	p.update()
}

// PressPower presses the power button: the guest's operating system shuts down if it listens.
func (p *ACPIPM) PressPower() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.regs.Status |= pm1Power
	p.update()
}

// RaiseGPE raises general purpose event n, 0 to 63.
func (p *ACPIPM) RaiseGPE(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.regs.GPEStatus[n/8&7] |= 1 << (n & 7)
	p.update()
}

// timerTop is the bit of the 24-bit timer whose change sets the status (ACPI 6.4, 4.8.3.3).
const timerTop = 1 << 23

// timer returns the 24-bit counter.
func (p *ACPIPM) timer() uint32 {
	ns := uint64(p.clock.Now())
	// Whole seconds and the rest apart, so that nothing overflows.
	ticks := ns/uint64(time.Second)*PMTimerHz + ns%uint64(time.Second)*PMTimerHz/uint64(time.Second)
	return uint32(ticks) & 0xffffff
}

// update brings the timer status and the interrupt line up to date. The caller holds mu.
func (p *ACPIPM) update() {
	r := &p.regs
	t := p.timer()
	if t&timerTop != r.TimerSeen {
		r.TimerSeen = t & timerTop
		r.Status |= pm1Timer
	}
	if r.Enable&pm1Timer != 0 && r.Status&pm1Timer == 0 {
		left := timerTop - t&(timerTop-1)
		p.carry.Reset(time.Duration(left)*time.Second/PMTimerHz + time.Millisecond)
	} else {
		p.carry.Stop()
	}
	high := r.Status&r.Enable&pm1All != 0
	for i := range r.GPEStatus {
		high = high || r.GPEStatus[i]&r.GPEEnable[i] != 0
	}
	if high != p.high {
		p.high = high
		p.sci.Set(high)
	}
}

func (p *ACPIPM) timerCarry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update()
}

// Read implements bus.Device.
func (p *ACPIPM) Read(offset uint64, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if offset == PMTimer && len(b) == 4 { // the hot one: Linux reads it in loops
		binary.LittleEndian.PutUint32(b, p.timer())
		return
	}
	p.update()
	for i := range b {
		b[i] = p.readByte(offset + uint64(i))
	}
}

func (p *ACPIPM) readByte(off uint64) uint8 {
	r := &p.regs
	switch {
	case off < PM1Ctrl:
		return uint8((uint32(r.Enable)<<16 | uint32(r.Status)) >> (8 * off))
	case off < PM1Ctrl+2:
		return uint8(r.Control >> (8 * (off - PM1Ctrl)))
	case off >= PMTimer && off < PMTimer+4:
		return uint8(p.timer() >> (8 * (off - PMTimer)))
	case off >= p.cfg.GPE0 && off < p.cfg.GPE0+p.cfg.GPE0Size:
		return *p.gpe(off - p.cfg.GPE0)
	case off >= pmSMIEn && off < pmSMISts:
		return uint8(r.SMI >> (8 * (off - pmSMIEn)))
	}
	return 0
}

// gpe returns byte i of the general purpose event block: status, then enable.
func (p *ACPIPM) gpe(i uint64) *uint8 {
	if half := p.cfg.GPE0Size / 2; i >= half {
		return &p.regs.GPEEnable[i-half]
	}
	return &p.regs.GPEStatus[i]
}

// Write implements bus.Device.
func (p *ACPIPM) Write(offset uint64, b []byte) {
	p.mu.Lock()
	off := false
	for i, v := range b {
		off = p.writeByte(offset+uint64(i), v) || off
	}
	p.update()
	p.mu.Unlock()
	if off {
		p.powerOff()
	}
}

// writeByte reports whether it switches the machine off.
func (p *ACPIPM) writeByte(off uint64, v uint8) bool {
	r := &p.regs
	switch {
	case off < 2: // status bits are cleared by writing one
		r.Status &^= uint16(v) << (8 * off)
	case off < PM1Ctrl:
		shift := 8 * (off - 2)
		r.Enable = (r.Enable&^(0xff<<shift) | uint16(v)<<shift) & pm1All
	case off < PM1Ctrl+2:
		shift := 8 * (off - PM1Ctrl)
		r.Control = r.Control&^(0xff<<shift) | uint16(v)<<shift | ctlSCI
		sleep := r.Control&ctlSleep != 0
		r.Control &^= ctlSleep // write-only
		return sleep && uint8(r.Control>>ctlTypeShift&7) == p.cfg.S5
	case off >= p.cfg.GPE0 && off < p.cfg.GPE0+p.cfg.GPE0Size:
		if i := off - p.cfg.GPE0; i < p.cfg.GPE0Size/2 {
			*p.gpe(i) &^= v
		} else {
			*p.gpe(i) = v
		}
	case off >= pmSMIEn && off < pmSMISts:
		shift := 8 * (off - pmSMIEn)
		r.SMI = r.SMI&^(0xff<<shift) | uint32(v)<<shift
	}
	return false
}

// Close stops the timer.
func (p *ACPIPM) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.regs.Enable &^= pm1Timer
	p.carry.Stop()
}

// Save returns the chip's state. The timer's value is the machine clock's.
func (p *ACPIPM) Save() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update()
	return json.Marshal(p.regs)
}

// Restore sets what Save returned.
func (p *ACPIPM) Restore(state []byte) error {
	var r pmRegs
	if err := json.Unmarshal(state, &r); err != nil {
		return fmt.Errorf("restore power management: %w", err)
	}
	if r.Version != 1 {
		return fmt.Errorf("restore power management: version %d is not one of ours", r.Version)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.regs = r
	p.update()
	return nil
}
