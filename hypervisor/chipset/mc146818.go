package chipset

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"virtd/hypervisor/interrupt"
)

// Ports and interrupt of the clock.
const (
	RTCPort  = 0x70 // index, then data
	RTCPorts = 2
	RTCIRQ   = 8
)

// Registers of the MC146818 (Motorola MC146818A, figure 8) and the century byte where the FADT says it is.
const (
	rtcSeconds = 0x00
	rtcSecAlrm = 0x01
	rtcMinutes = 0x02
	rtcMinAlrm = 0x03
	rtcHours   = 0x04
	rtcHrsAlrm = 0x05
	rtcWeekday = 0x06
	rtcDay     = 0x07
	rtcMonth   = 0x08
	rtcYear    = 0x09
	rtcA       = 0x0a
	rtcB       = 0x0b
	rtcC       = 0x0c
	rtcD       = 0x0d
	RTCCentury = 0x32
	rtcBytes   = 128
)

// Bits of registers A to D.
const (
	rtcUIP = 0x80 // A: update in progress

	rtcSet, rtcPIE, rtcAIE, rtcUIE = 0x80, 0x40, 0x20, 0x10 // B
	rtcBinary, rtc24h              = 0x04, 0x02

	rtcIRQF, rtcPF, rtcAF, rtcUF = 0x80, 0x40, 0x20, 0x10 // C

	rtcValid = 0x80 // D
)

// maxPeriodicHz bounds how often the host wakes for the guest's periodic interrupt; faster rates are thinned out.
const maxPeriodicHz = 1024

// RTC is the battery-backed clock with its CMOS memory. Time is the host's plus an offset, which the guest changes by
// setting the clock. Interrupts come from one host timer that runs only while the guest has one enabled.
type RTC struct {
	line interrupt.Line
	now  func() time.Time // the host's UTC

	mu     sync.Mutex
	index  uint8
	cmos   [rtcBytes]uint8
	offset time.Duration // what the clock shows, minus now
	frozen time.Time     // what the clock shows while SET is on
	last   time.Time     // up to where interrupt causes have been looked at (shown time)
	timer  *time.Timer
	high   bool
	stop   bool
}

// NewRTC returns the clock; offset is what it shows minus UTC. now is time.Now but for tests.
func NewRTC(line interrupt.Line, offset time.Duration, now func() time.Time) *RTC {
	c := &RTC{line: line, now: now, offset: offset}
	c.timer = time.AfterFunc(time.Hour, c.tick)
	c.timer.Stop()
	c.cmos[rtcA], c.cmos[rtcB], c.cmos[rtcD] = 0x26, rtc24h, rtcValid
	c.last = c.shown()
	return c
}

// Reset is the reset line: interrupts off; time and memory stay (MC146818A, RESET pin).
func (c *RTC) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cmos[rtcB] &^= rtcPIE | rtcAIE | rtcUIE
	c.cmos[rtcC] = 0
	c.index = 0
	c.update()
}

// SetCMOS stores firmware's own bytes, such as the memory size.
func (c *RTC) SetCMOS(index, v uint8) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cmos[index&(rtcBytes-1)] = v
}

// Offset returns what the clock shows minus UTC.
func (c *RTC) Offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

// Shift moves what the clock shows by d.
func (c *RTC) Shift(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
	c.last = c.shown()
	c.update()
}

func (c *RTC) shown() time.Time {
	if c.cmos[rtcB]&rtcSet != 0 && !c.frozen.IsZero() {
		return c.frozen
	}
	return c.now().UTC().Add(c.offset)
}

// Read implements bus.Device.
func (c *RTC) Read(off uint64, p []byte) {
	for i := range p {
		p[i] = 0xff
	}
	if off != 1 {
		return // the index is write-only
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.update()
	p[0] = c.read(c.index)
	if c.index == rtcC { // reading acknowledges
		c.cmos[rtcC] = 0
		c.update()
	}
}

func (c *RTC) read(i uint8) uint8 {
	t := c.shown()
	switch i {
	case rtcSeconds:
		return c.encode(t.Second())
	case rtcMinutes:
		return c.encode(t.Minute())
	case rtcHours:
		return c.encodeHour(t.Hour())
	case rtcWeekday:
		return c.encode(int(t.Weekday()) + 1)
	case rtcDay:
		return c.encode(t.Day())
	case rtcMonth:
		return c.encode(int(t.Month()))
	case rtcYear:
		return c.encode(t.Year() % 100)
	case RTCCentury:
		return c.encode(t.Year() / 100)
	case rtcA:
		// The update cycle begins 244 microseconds after UIP rises (MC146818A, update cycle).
		if c.cmos[rtcB]&rtcSet == 0 && t.Nanosecond() >= int(time.Second-244*time.Microsecond) {
			return c.cmos[rtcA] | rtcUIP
		}
	}
	return c.cmos[i]
}

// Write implements bus.Device.
func (c *RTC) Write(off uint64, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off == 0 {
		c.index = p[0] & (rtcBytes - 1) // bit 7 masks NMI, which nothing raises
		if len(p) < 2 {
			return
		}
		p = p[1:]
	}
	if off <= 1 {
		c.update()
		c.write(c.index, p[0])
		c.update()
	}
}

func (c *RTC) write(i, v uint8) {
	switch i {
	case rtcSeconds, rtcMinutes, rtcHours, rtcDay, rtcMonth, rtcYear, RTCCentury:
		c.setTime(i, v)
	case rtcWeekday: // follows from the date
	case rtcA:
		c.cmos[rtcA] = v &^ rtcUIP
	case rtcB:
		c.setB(v)
	case rtcC, rtcD: // read-only
	default:
		c.cmos[i] = v
	}
}

func (c *RTC) setB(v uint8) {
	old := c.cmos[rtcB]
	switch {
	case v&rtcSet != 0 && old&rtcSet == 0:
		c.frozen = c.shown()
		v &^= rtcUIE // SET clears UIE
	case v&rtcSet == 0 && old&rtcSet != 0:
		c.offset = c.frozen.Sub(c.now().UTC())
		c.frozen, c.last = time.Time{}, time.Time{}
	}
	c.cmos[rtcB] = v
	if c.last.IsZero() {
		c.last = c.shown()
	}
}

// setTime changes one field of the shown time.
func (c *RTC) setTime(i, v uint8) {
	t := c.shown()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	n := c.decode(v)
	switch i {
	case rtcSeconds:
		second = n
	case rtcMinutes:
		minute = n
	case rtcHours:
		hour = c.decodeHour(v)
	case rtcDay:
		day = n
	case rtcMonth:
		month = time.Month(n)
	case rtcYear:
		year = year/100*100 + n
	case RTCCentury:
		year = n*100 + year%100
	}
	// time.Date accepts any field and carries, so that no value that a guest writes is special.
	t = time.Date(year, month, day, hour, minute, second, t.Nanosecond(), time.UTC)
	if c.cmos[rtcB]&rtcSet != 0 {
		c.frozen = t
		return
	}
	c.offset = t.Sub(c.now().UTC())
	c.last = t
}

func (c *RTC) encode(n int) uint8 {
	if c.cmos[rtcB]&rtcBinary != 0 {
		return uint8(n)
	}
	return uint8(n/10%10<<4 | n%10)
}

func (c *RTC) decode(v uint8) int {
	if c.cmos[rtcB]&rtcBinary != 0 {
		return int(v)
	}
	return int(v>>4)*10 + int(v&15)
}

func (c *RTC) encodeHour(h int) uint8 {
	if c.cmos[rtcB]&rtc24h != 0 {
		return c.encode(h)
	}
	pm := uint8(0)
	if h >= 12 {
		pm = 0x80
	}
	if h %= 12; h == 0 {
		h = 12
	}
	return c.encode(h) | pm
}

func (c *RTC) decodeHour(v uint8) int {
	if c.cmos[rtcB]&rtc24h != 0 {
		return c.decode(v)
	}
	h := c.decode(v&0x7f) % 12
	if v&0x80 != 0 {
		h += 12
	}
	return h
}

// Save returns the chip's state.
func (c *RTC) Save() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return json.Marshal(rtcState{1, c.index, c.cmos[:], c.offset, c.frozen})
}

type rtcState struct {
	Version int
	Index   uint8
	CMOS    []byte
	Offset  time.Duration
	Frozen  time.Time
}

// Restore sets what Save returned. The time goes on as the host's did.
func (c *RTC) Restore(state []byte) error {
	var s rtcState
	if err := json.Unmarshal(state, &s); err != nil {
		return fmt.Errorf("restore clock: %w", err)
	}
	if s.Version != 1 || len(s.CMOS) != rtcBytes || s.Index >= rtcBytes {
		return fmt.Errorf("restore clock: state of version %d with %d bytes is not one of ours", s.Version, len(s.CMOS))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index, c.offset, c.frozen = s.Index, s.Offset, s.Frozen
	copy(c.cmos[:], s.CMOS)
	c.last = c.shown()
	c.update()
	return nil
}
