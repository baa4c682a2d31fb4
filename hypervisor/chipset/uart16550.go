package chipset

import (
	"encoding/json"
	"fmt"
	"sync"

	"virtd/hypervisor/interrupt"
)

// UARTPorts is how many ports a UART answers; COMPorts and COMIRQs are the usual places of the four of a PC.
const UARTPorts = 8

// Places of COM1 to COM4.
var (
	COMPorts = [4]uint16{0x3f8, 0x2f8, 0x3e8, 0x2e8}
	COMIRQs  = [4]uint32{4, 3, 4, 3}
)

// Registers (National PC16550D, table II) by offset.
const (
	uartData = iota // RBR, THR; divisor low with DLAB
	uartIER         // divisor high with DLAB
	uartIIR         // FCR when written
	uartLCR
	uartMCR
	uartLSR
	uartMSR
	uartSCR
)

// Register bits (PC16550D, 8.1 to 8.9).
const (
	ierRx, ierTx, ierLine, ierModem = 1, 2, 4, 8

	iirNone, iirModem, iirTx, iirRx, iirLine, iirTimeout = 1, 0, 2, 4, 6, 12
	iirFIFO                                              = 0xc0

	fcrEnable, fcrClearRx, fcrClearTx = 1, 2, 4

	lcrDLAB = 0x80

	mcrDTR, mcrRTS, mcrOut1, mcrOut2, mcrLoop = 1, 2, 4, 8, 0x10

	lsrData, lsrOverrun, lsrTHRE, lsrIdle = 1, 2, 0x20, 0x40

	msrDeltas                     = 0x0f
	msrCTS, msrDSR, msrRI, msrDCD = 0x10, 0x20, 0x40, 0x80
	fifoDepth                     = 16
)

// Output is where a UART sends: chardev.Port.
type Output interface {
	// Write takes bytes without blocking and returns how many.
	Write(p []byte) int
	// Ready says that the UART, whose Room was 0, has room again.
	Ready()
}

// UART is a 16550A. Characters take no time: the transmitter is empty as soon as the host took the byte, and when the
// host is slow the guest sees a busy transmitter. It implements bus.Device and chardev.FrontEnd.
type UART struct {
	line interrupt.Line
	out  Output

	mu      sync.Mutex
	regs    uartRegs
	high    bool
	one     [1]byte
	waiting bool // the host side has seen no room
}

// uartRegs is the state that a saved machine keeps.
type uartRegs struct {
	Version                               int
	IER, FCR, LCR, MCR, MSR, SCR, Trigger uint8
	Divisor                               uint16
	Overrun                               bool
	TxEmpty                               bool // THRE interrupt is pending
	Rx                                    []byte
	Tx                                    []byte // what the host has not taken
	Timeout                               bool
}

// NewUART returns a UART after reset.
func NewUART(line interrupt.Line, out Output) *UART {
	u := &UART{line: line, out: out}
	u.Reset()
	return u
}

// Reset is a power-on reset (PC16550D, table I).
func (u *UART) Reset() {
	u.mu.Lock()
	u.regs = uartRegs{Version: 1, MSR: msrCTS | msrDSR | msrDCD, Divisor: 12, Trigger: 1,
		Rx: make([]byte, 0, fifoDepth), Tx: make([]byte, 0, fifoDepth)}
	u.update()
	u.unlock()
}

// unlock releases the lock and tells the host side about room that came up.
func (u *UART) unlock() {
	tell := u.waiting && u.room() > 0
	if tell {
		u.waiting = false
	}
	u.mu.Unlock()
	if tell {
		u.out.Ready()
	}
}

// update drives the interrupt line. The caller holds mu.
func (u *UART) update() {
	// OUT2 gates the interrupt on a PC.
	high := u.cause() != iirNone && u.regs.MCR&mcrOut2 != 0 && u.regs.MCR&mcrLoop == 0
	if high != u.high {
		u.high = high
		u.line.Set(high)
	}
}

// cause returns the highest pending interrupt (PC16550D, table III).
func (u *UART) cause() uint8 {
	r := &u.regs
	switch {
	case r.IER&ierLine != 0 && r.Overrun:
		return iirLine
	case r.IER&ierRx != 0 && len(r.Rx) > 0 && len(r.Rx) >= int(r.Trigger):
		return iirRx
	case r.IER&ierRx != 0 && len(r.Rx) > 0 && r.Timeout:
		return iirTimeout
	case r.IER&ierTx != 0 && r.TxEmpty:
		return iirTx
	case r.IER&ierModem != 0 && r.MSR&msrDeltas != 0:
		return iirModem
	}
	return iirNone
}

// Read implements bus.Device.
func (u *UART) Read(offset uint64, p []byte) {
	for i := range p {
		p[i] = 0xff
	}
	if offset >= UARTPorts {
		return
	}
	u.mu.Lock()
	defer u.unlock()
	p[0] = u.read(int(offset))
	u.update()
}

func (u *UART) read(reg int) uint8 {
	r := &u.regs
	switch reg {
	case uartData:
		if r.LCR&lcrDLAB != 0 {
			return uint8(r.Divisor)
		}
		return u.pop()
	case uartIER:
		if r.LCR&lcrDLAB != 0 {
			return uint8(r.Divisor >> 8)
		}
		return r.IER
	case uartIIR:
		c := u.cause()
		if c == iirTx {
			r.TxEmpty = false // reading its cause clears it
		}
		if r.FCR&fcrEnable != 0 {
			c |= iirFIFO
		}
		return c
	case uartLCR:
		return r.LCR
	case uartMCR:
		return r.MCR
	case uartLSR:
		return u.lineStatus()
	case uartMSR:
		return u.modemStatus()
	}
	return r.SCR
}

// pop takes the oldest received byte; 0 when there is none.
func (u *UART) pop() uint8 {
	r := &u.regs
	if len(r.Rx) == 0 {
		return 0
	}
	b := r.Rx[0]
	r.Rx = r.Rx[:copy(r.Rx, r.Rx[1:])]
	r.Timeout = len(r.Rx) > 0
	return b
}

func (u *UART) lineStatus() uint8 {
	r := &u.regs
	var s uint8
	if len(r.Rx) > 0 {
		s |= lsrData
	}
	if r.Overrun {
		s |= lsrOverrun
		r.Overrun = false
	}
	if len(r.Tx) == 0 {
		s |= lsrTHRE | lsrIdle
	}
	return s
}

func (u *UART) modemStatus() uint8 {
	r := &u.regs
	if r.MCR&mcrLoop != 0 { // the outputs are the inputs: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD
		m := r.MCR
		return m&mcrRTS<<3 | m&mcrDTR<<5 | m&mcrOut1<<4 | m&mcrOut2<<4
	}
	s := r.MSR
	r.MSR &^= msrDeltas
	return s
}

// Write implements bus.Device.
func (u *UART) Write(offset uint64, p []byte) {
	if offset >= UARTPorts {
		return
	}
	u.mu.Lock()
	defer u.unlock()
	u.write(int(offset), p[0])
	u.update()
}

func (u *UART) write(reg int, v uint8) {
	r := &u.regs
	switch reg {
	case uartData:
		if r.LCR&lcrDLAB != 0 {
			r.Divisor = r.Divisor&0xff00 | uint16(v)
			return
		}
		u.transmit(v)
	case uartIER:
		if r.LCR&lcrDLAB != 0 {
			r.Divisor = r.Divisor&0xff | uint16(v)<<8
			return
		}
		if v&ierTx != 0 && r.IER&ierTx == 0 && len(r.Tx) == 0 {
			r.TxEmpty = true // enabling it while the transmitter is empty interrupts
		}
		r.IER = v & 0x0f
	case uartIIR:
		u.setFIFO(v)
	case uartLCR:
		r.LCR = v
	case uartMCR:
		r.MCR = v & 0x1f
	case uartSCR:
		r.SCR = v
	}
}

func (u *UART) setFIFO(v uint8) {
	r := &u.regs
	if (v^r.FCR)&fcrEnable != 0 {
		v |= fcrClearRx | fcrClearTx
	}
	if v&fcrClearRx != 0 {
		r.Rx, r.Timeout = r.Rx[:0], false
	}
	if v&fcrClearTx != 0 && len(r.Tx) > 0 {
		r.Tx, r.TxEmpty = r.Tx[:0], true
	}
	r.FCR = v &^ (fcrClearRx | fcrClearTx)
	r.Trigger = 1
	if v&fcrEnable != 0 {
		r.Trigger = [4]uint8{1, 4, 8, 14}[v>>6]
	}
	r.Timeout = len(r.Rx) > 0
}

// depth is how many bytes each FIFO holds.
func (u *UART) depth() int {
	if u.regs.FCR&fcrEnable != 0 {
		return fifoDepth
	}
	return 1
}

// transmit sends one byte to the host, or to the receiver in loopback.
func (u *UART) transmit(v uint8) {
	r := &u.regs
	if r.MCR&mcrLoop != 0 {
		u.receive(v)
		r.TxEmpty = true
		return
	}
	r.TxEmpty = false
	if len(r.Tx) == 0 {
		if u.one[0] = v; u.out.Write(u.one[:]) == 1 {
			r.TxEmpty = true
			return
		}
	}
	if len(r.Tx) < u.depth() {
		r.Tx = append(r.Tx, v)
	} else {
		r.Tx[len(r.Tx)-1] = v // a byte written to a full transmitter replaces the one before it
	}
}

// receive puts one byte into the receiver.
func (u *UART) receive(v uint8) {
	r := &u.regs
	if len(r.Rx) >= u.depth() {
		r.Overrun = true
		return
	}
	r.Rx = append(r.Rx, v)
	r.Timeout = true // characters take no time, so the line is idle afterwards
}

// Drained implements chardev.FrontEnd: the host took output and has room.
func (u *UART) Drained() {
	u.mu.Lock()
	defer u.unlock()
	r := &u.regs
	if len(r.Tx) == 0 {
		return
	}
	n := u.out.Write(r.Tx)
	if r.Tx = r.Tx[:copy(r.Tx, r.Tx[n:])]; len(r.Tx) == 0 {
		r.TxEmpty = true
	}
	u.update()
}

// Room implements chardev.FrontEnd. A receiver in loopback takes nothing from outside.
func (u *UART) Room() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.room()
	u.waiting = n == 0
	return n
}

func (u *UART) room() int {
	if u.regs.MCR&mcrLoop != 0 {
		return 0
	}
	return max(u.depth()-len(u.regs.Rx), 0)
}

// Receive implements chardev.FrontEnd.
func (u *UART) Receive(p []byte) {
	u.mu.Lock()
	defer u.unlock()
	for _, b := range p {
		u.receive(b)
	}
	u.update()
}

// Connected implements chardev.FrontEnd. The modem lines stay up, as on a null-modem cable without handshake: a getty
// waits for carrier.
func (u *UART) Connected(bool) {}

// Save returns the chip's state.
func (u *UART) Save() ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return json.Marshal(u.regs)
}

// Restore sets what Save returned.
func (u *UART) Restore(state []byte) error {
	var r uartRegs
	if err := json.Unmarshal(state, &r); err != nil {
		return fmt.Errorf("restore serial port: %w", err)
	}
	if r.Version != 1 || len(r.Rx) > fifoDepth || len(r.Tx) > fifoDepth {
		return fmt.Errorf("restore serial port: state of version %d with %d and %d bytes is not one of ours", r.Version, len(r.Rx), len(r.Tx))
	}
	r.Rx, r.Tx = append(make([]byte, 0, fifoDepth), r.Rx...), append(make([]byte, 0, fifoDepth), r.Tx...)
	u.mu.Lock()
	u.regs = r
	u.update()
	u.unlock()
	u.Drained()
	return nil
}
