package chipset

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"virtd/hypervisor/bus"
)

// wire is an interrupt line that counts its rises.
type wire struct {
	high  bool
	rises int
}

func (w *wire) Set(high bool) {
	if high && !w.high {
		w.rises++
	}
	w.high = high
}

// host is a UART's host side that takes limited output.
type host struct {
	got   bytes.Buffer
	limit int // bytes it takes before it is full; negative is no limit
	ready int
}

func (h *host) Write(p []byte) int {
	n := len(p)
	if h.limit >= 0 {
		n = min(n, h.limit)
		h.limit -= n
	}
	h.got.Write(p[:n])
	return n
}
func (h *host) Ready() { h.ready++ }

func in(d bus.Device, off uint64) uint8 {
	p := []byte{0}
	d.Read(off, p)
	return p[0]
}

func out(d bus.Device, off uint64, v uint8) { d.Write(off, []byte{v}) }

func newUART(limit int) (*UART, *wire, *host) {
	w, h := &wire{}, &host{limit: limit}
	u := NewUART(w, h)
	out(u, uartMCR, mcrOut2)
	return u, w, h
}

func TestUARTTransmit(t *testing.T) {
	u, w, h := newUART(-1)
	out(u, uartIER, ierTx)
	if !w.high || in(u, uartIIR)&0xf != iirTx {
		t.Error("enabling the transmitter interrupt does not interrupt")
	}
	if w.high || in(u, uartIIR)&0xf != iirNone {
		t.Error("reading the cause does not acknowledge")
	}
	for _, b := range []byte("hello") {
		out(u, uartData, b)
		if in(u, uartLSR)&lsrTHRE == 0 || !w.high {
			t.Fatal("transmitter is busy with a fast host")
		}
	}
	if h.got.String() != "hello" {
		t.Errorf("sent %q", h.got.String())
	}
}

func TestUARTBackpressure(t *testing.T) {
	u, w, h := newUART(2)
	out(u, uartIIR, fcrEnable)
	out(u, uartIER, ierTx)
	for _, b := range []byte("abcd") {
		out(u, uartData, b)
	}
	in(u, uartIIR)
	if in(u, uartLSR)&lsrTHRE != 0 || w.high {
		t.Error("transmitter claims to be empty while the host is full")
	}
	for range 100 { // a flood replaces the last byte, and grows nothing
		out(u, uartData, 'z')
	}
	h.limit = -1
	u.Drained()
	if got := h.got.String(); got != "abcdzzzzzzzzzzzzzz" {
		t.Errorf("sent %q", got)
	}
	if in(u, uartLSR)&lsrTHRE == 0 || !w.high {
		t.Error("no interrupt after the host took everything")
	}
}

func TestUARTReceive(t *testing.T) {
	u, w, h := newUART(-1)
	out(u, uartIIR, fcrEnable|0xc0) // trigger at 14
	out(u, uartIER, ierRx|ierLine)
	if n := u.Room(); n != fifoDepth {
		t.Fatalf("room %d", n)
	}
	u.Receive([]byte("abc"))
	if !w.high || in(u, uartIIR)&0xf != iirTimeout {
		t.Error("no timeout interrupt for three bytes below the trigger")
	}
	u.Receive([]byte("0123456789abc"))
	if in(u, uartIIR)&0xf != iirRx || u.Room() != 0 {
		t.Error("no data interrupt for a full FIFO")
	}
	var got []byte
	for in(u, uartLSR)&lsrData != 0 {
		got = append(got, in(u, uartData))
	}
	if string(got) != "abc0123456789abc" || w.high || h.ready != 1 {
		t.Errorf("received %q, line %v, host told %d times of room", got, w.high, h.ready)
	}
	u.Receive(bytes.Repeat([]byte("x"), 20))
	if in(u, uartIIR)&0xf != iirLine || in(u, uartLSR)&lsrOverrun == 0 || in(u, uartLSR)&lsrOverrun != 0 {
		t.Error("overrun is not reported once")
	}
}

func TestUARTLoopback(t *testing.T) {
	u, _, h := newUART(-1)
	out(u, uartMCR, mcrLoop|mcrDTR|mcrRTS|mcrOut1|mcrOut2)
	if m := in(u, uartMSR); m&0xf0 != 0xf0 {
		t.Errorf("modem status %#x in loopback", m)
	}
	out(u, uartData, 'L')
	if got := in(u, uartData); got != 'L' || h.got.Len() != 0 || u.Room() != 0 {
		t.Errorf("loopback gave %q, host got %d bytes", got, h.got.Len())
	}
}

func TestUARTDivisor(t *testing.T) {
	u, _, h := newUART(-1)
	out(u, uartLCR, lcrDLAB|3)
	out(u, uartData, 1)
	out(u, uartIER, 2)
	if in(u, uartData) != 1 || in(u, uartIER) != 2 || h.got.Len() != 0 {
		t.Error("divisor latch")
	}
	out(u, uartLCR, 3)
	if in(u, uartIER) != 0 {
		t.Error("divisor latch leaks into IER")
	}
}

func TestUARTSave(t *testing.T) {
	u, _, _ := newUART(0)
	out(u, uartIIR, fcrEnable)
	out(u, uartIER, ierRx|ierTx)
	out(u, uartData, 'q')
	u.Receive([]byte("in"))
	state, err := u.Save()
	if err != nil {
		t.Fatal(err)
	}
	v, w, h := newUART(-1)
	if err := v.Restore(state); err != nil {
		t.Fatal(err)
	}
	if h.got.String() != "q" || !w.high || in(v, uartData) != 'i' || in(v, uartData) != 'n' || in(v, uartIER) != ierRx|ierTx {
		t.Errorf("restored UART differs: sent %q, line %v", h.got.String(), w.high)
	}
	for _, bad := range []string{"", "{}", `{"Version":2}`, `{"Version":1,"Rx":"` + string(bytes.Repeat([]byte("A"), 400)) + `"}`} {
		if err := v.Restore([]byte(bad)); err == nil {
			t.Errorf("restored %.30q", bad)
		}
	}
}

func TestUARTDoesNotAllocate(t *testing.T) {
	u, _, h := newUART(-1)
	h.got.Grow(1 << 20)
	p := []byte{'x'}
	if n := testing.AllocsPerRun(1000, func() { u.Write(uartData, p); u.Read(uartLSR, p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestKeyboardController(t *testing.T) {
	resets := 0
	w := &wire{}
	k := NewI8042(w, func() { resets++ })
	data, cmd := k.Data(), k.Command()
	out(cmd, 0, 0xaa)
	if in(cmd, 0)&kbdOutFull == 0 || !w.high || in(data, 0) != 0x55 || in(cmd, 0)&kbdOutFull != 0 {
		t.Error("self test")
	}
	out(cmd, 0, 0x60)
	out(data, 0, 0x44)
	out(cmd, 0, 0x20)
	if got := in(data, 0); got != 0x44 || w.high {
		t.Errorf("command byte %#x", got)
	}
	out(data, 0, 0xf2)
	if a, b, c := in(data, 0), in(data, 0), in(data, 0); a != 0xfa || b != 0xab || c != 0x41 {
		t.Errorf("identify gave %x %x %x", a, b, c)
	}
	for range 100 {
		out(data, 0, 0xff)
	}
	if len(k.regs.Out) > maxKbdOut {
		t.Errorf("%d bytes wait", len(k.regs.Out))
	}
	out(cmd, 0, 0xff) // pulses nothing
	if resets != 0 {
		t.Error("reset without its bit")
	}
	out(cmd, 0, 0xfe)
	out(cmd, 0, 0xd1)
	out(data, 0, 0xfe)
	if resets != 2 {
		t.Errorf("%d resets, want 2", resets)
	}
	state, err := k.Save()
	if err != nil {
		t.Fatal(err)
	}
	if err := NewI8042(&wire{}, nil).Restore(state); err != nil {
		t.Error(err)
	}
}

func TestResetPorts(t *testing.T) {
	resets := 0
	cf9 := NewCF9(func() { resets++ })
	out(cf9, 0, 2)
	out(cf9, 0, 6)
	p92 := NewPort92(func() { resets++ })
	out(p92, 0, 2)
	out(p92, 0, 3)
	if resets != 2 || in(cf9, 0) != 2 || in(p92, 0) != 2 {
		t.Errorf("%d resets, CF9 %#x, port 92 %#x", resets, in(cf9, 0), in(p92, 0))
	}
}

type fixedClock struct{ t time.Duration }

func (c *fixedClock) Now() time.Duration { return c.t }

func newPM() (*ACPIPM, *wire, *fixedClock, *int) {
	w, c, offs := &wire{}, &fixedClock{}, new(int)
	return NewACPIPM(ACPIPMConfig{GPE0: 0x20, GPE0Size: 16, S5: 7}, c, w, func() { *offs++ }), w, c, offs
}

func TestPowerManagement(t *testing.T) {
	p, w, c, offs := newPM()
	defer p.Close()
	p.PressPower()
	if w.high {
		t.Error("interrupt without enable")
	}
	p.Write(PM1Event+2, []byte{0, 1})
	if !w.high {
		t.Error("no interrupt for the power button")
	}
	p.Write(PM1Event, []byte{0, 1})
	if w.high || in(p, PM1Event+1) != 0 {
		t.Error("status is not cleared by writing one")
	}
	p.RaiseGPE(10)
	p.Write(0x20+8+1, []byte{4})
	if !w.high || in(p, 0x21) != 4 {
		t.Error("general purpose event 10")
	}
	p.Write(0x21, []byte{4})
	if w.high {
		t.Error("general purpose event is not cleared")
	}
	c.t = 3 * time.Second
	b := make([]byte, 4)
	p.Read(PMTimer, b)
	if got := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24; got != 3*PMTimerHz&0xffffff {
		t.Errorf("timer %d", got)
	}
	if in(p, PM1Event)&1 == 0 {
		t.Error("no timer status after its top bit changed")
	}
	if in(p, PM1Ctrl) != 1 {
		t.Error("ACPI mode is not on")
	}
	p.Write(PM1Ctrl, []byte{0, 0x20}) // sleep type 0
	if *offs != 0 {
		t.Error("another sleep type switched off")
	}
	p.Write(PM1Ctrl, []byte{0, 0x3c})
	if *offs != 1 {
		t.Error("S5 does not switch off")
	}
	state, err := p.Save()
	if err != nil {
		t.Fatal(err)
	}
	q, _, later, _ := newPM()
	defer q.Close()
	later.t = c.t
	if err := q.Restore(state); err != nil || q.regs != p.regs {
		t.Errorf("restored %+v, want %+v: %v", q.regs, p.regs, err)
	}
}

// hostTime is a host clock that tests move; the chip's timer reads it too.
type hostTime struct{ ns atomic.Int64 }

func (h *hostTime) now() time.Time      { return time.Unix(0, h.ns.Load()).UTC() }
func (h *hostTime) add(d time.Duration) { h.ns.Add(int64(d)) }

func newRTC(at time.Time) (*RTC, *wire, *hostTime) {
	w, h := &wire{}, &hostTime{}
	h.ns.Store(at.UnixNano())
	return NewRTC(w, 0, h.now), w, h
}

func rtcRead(c *RTC, i uint8) uint8     { out(c, 0, i); return in(c, 1) }
func rtcWrite(c *RTC, i uint8, v uint8) { out(c, 0, i); out(c, 1, v) }

func TestClockReads(t *testing.T) {
	c, _, _ := newRTC(time.Date(2031, 12, 28, 21, 59, 7, 0, time.UTC))
	defer c.Close()
	for i, want := range map[uint8]uint8{rtcSeconds: 0x07, rtcMinutes: 0x59, rtcHours: 0x21, rtcWeekday: 1, rtcDay: 0x28, rtcMonth: 0x12,
		rtcYear: 0x31, RTCCentury: 0x20, rtcD: rtcValid} {
		if got := rtcRead(c, i); got != want {
			t.Errorf("register %#x is %#x, want %#x", i, got, want)
		}
	}
	rtcWrite(c, rtcB, rtcBinary)
	if got := rtcRead(c, rtcHours); got != 0x80|9 {
		t.Errorf("12-hour binary %#x", got)
	}
}

func TestClockSet(t *testing.T) {
	c, _, now := newRTC(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	defer c.Close()
	rtcWrite(c, rtcB, rtcSet|rtc24h)
	now.add(time.Minute) // the clock stands still
	for i, v := range map[uint8]uint8{rtcSeconds: 0x30, rtcMinutes: 0x20, rtcHours: 0x10, rtcDay: 0x03, rtcMonth: 0x02} {
		rtcWrite(c, i, v)
	}
	rtcWrite(c, rtcB, rtc24h)
	want := time.Date(2026, 2, 3, 10, 20, 30, 0, time.UTC)
	if got := c.shown(); !got.Equal(want) {
		t.Errorf("clock shows %v, want %v", got, want)
	}
	state, err := c.Save()
	if err != nil {
		t.Fatal(err)
	}
	d, _, later := newRTC(now.now().Add(time.Hour))
	defer d.Close()
	if err := d.Restore(state); err != nil {
		t.Fatal(err)
	}
	if got := d.shown(); !got.Equal(want.Add(time.Hour)) {
		t.Errorf("restored an hour later (%v) it shows %v", later, got)
	}
}

func TestClockInterrupts(t *testing.T) {
	c, w, now := newRTC(time.Date(2026, 1, 1, 23, 59, 58, 0, time.UTC))
	defer c.Close()
	rtcWrite(c, rtcB, rtc24h|rtcUIE)
	now.add(time.Second)
	c.tick()
	if !w.high || rtcRead(c, rtcC)&(rtcIRQF|rtcUF) != rtcIRQF|rtcUF {
		t.Error("no update interrupt")
	}
	if w.high {
		t.Error("reading register C does not acknowledge")
	}
	rtcWrite(c, rtcB, rtc24h|rtcAIE)
	rtcWrite(c, rtcSecAlrm, 0)
	rtcWrite(c, rtcMinAlrm, 0)
	rtcWrite(c, rtcHrsAlrm, 0xff)
	now.add(time.Second)
	c.tick()
	if !w.high || rtcRead(c, rtcC)&rtcAF == 0 {
		t.Error("no alarm at midnight")
	}
	rtcWrite(c, rtcB, rtc24h|rtcPIE)
	now.add(time.Second)
	c.tick()
	if rtcRead(c, rtcC)&rtcPF == 0 {
		t.Error("no periodic interrupt")
	}
	now.add(100 * 365 * 24 * time.Hour) // a host that slept long must not spin
	c.tick()
}

func FuzzPorts(f *testing.F) {
	f.Add([]byte{0, 0x41, 0x10, 0x55, 0x25, 0x3c})
	f.Add([]byte{0x70, 0x0b, 0x71, 0xff, 0x70, 0x00, 0x71, 0xff})
	f.Add([]byte{0x64, 0xd4, 0x60, 0xff, 0x64, 0xfe})
	f.Fuzz(func(t *testing.T, ops []byte) {
		u, _, h := newUART(3)
		p, _, clock, _ := newPM()
		defer p.Close()
		c, _, now := newRTC(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		defer c.Close()
		k := NewI8042(&wire{}, func() {})
		devices := []bus.Device{u, p, c, k.Data(), k.Command(), NewCF9(func() {}), NewPort92(func() {}), &PostCode{}, &Speaker{}, &APM{},
			NewPVPanic(func(uint8) {})}
		for len(ops) >= 4 {
			d, off, width := devices[int(ops[0])%len(devices)], uint64(ops[1]), 1<<(ops[2]&3)
			b := bytes.Repeat([]byte{ops[3]}, width)
			if ops[2]&4 != 0 {
				d.Read(off, b)
			} else {
				d.Write(off, b)
			}
			if ops[2]&8 != 0 {
				h.limit = int(ops[3])
				u.Drained()
				u.Receive(b)
			}
			clock.t += time.Duration(ops[3]) * time.Millisecond
			now.add(time.Duration(ops[3]) * time.Second)
			ops = ops[4:]
		}
		if len(u.regs.Rx) > fifoDepth || len(u.regs.Tx) > fifoDepth || len(k.regs.Out) > maxKbdOut {
			t.Fatal("a FIFO grew")
		}
	})
}
