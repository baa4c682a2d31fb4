package chipset

import "time"

// period returns the time between periodic interrupts by the rate selection in register A, 0 for none (MC146818A,
// table 5, for the 32768 Hz time base).
func (c *RTC) period() time.Duration {
	rate := c.cmos[rtcA] & 15
	switch {
	case rate == 0:
		return 0
	case rate <= 2: // the same as 8 and 9
		rate += 7
	}
	return time.Second << (rate - 1) / 32768
}

// update sets the causes that shown time passed since the last call, drives the line, and arms the timer for the next
// enabled cause. The caller holds mu.
func (c *RTC) update() {
	now := c.shown()
	b := c.cmos[rtcB]
	if b&rtcSet == 0 && now.After(c.last) {
		if now.Unix() != c.last.Unix() {
			c.cmos[rtcC] |= rtcUF
			if c.alarmPassed(c.last, now) {
				c.cmos[rtcC] |= rtcAF
			}
		}
		if p := c.period(); p > 0 && now.UnixNano()/int64(p) != c.last.UnixNano()/int64(p) {
			c.cmos[rtcC] |= rtcPF
		}
	}
	c.last = now
	high := c.cmos[rtcC]&b&(rtcPIE|rtcAIE|rtcUIE) != 0
	if high {
		c.cmos[rtcC] |= rtcIRQF
	}
	if high != c.high {
		c.high = high
		c.line.Set(high)
	}
	c.arm(now)
}

// arm sets the timer for the next enabled cause that is not pending yet.
func (c *RTC) arm(now time.Time) {
	b, pending := c.cmos[rtcB], c.cmos[rtcC]
	c.timer.Stop()
	if b&rtcSet != 0 || c.stop {
		return
	}
	wait := time.Duration(-1)
	if b&(rtcUIE|rtcAIE)&^pending != 0 {
		wait = now.Truncate(time.Second).Add(time.Second).Sub(now)
	}
	if p := c.period(); b&rtcPIE&^pending != 0 && p > 0 {
		p = max(p, time.Second/maxPeriodicHz)
		next := p - time.Duration(now.UnixNano()%int64(p))
		if wait < 0 || next < wait {
			wait = next
		}
	}
	if wait >= 0 {
		c.timer.Reset(wait)
	}
}

func (c *RTC) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.update()
}

// alarmPassed reports whether a second in (from, to] matches the alarm; a byte of 0xc0 or more matches any value.
func (c *RTC) alarmPassed(from, to time.Time) bool {
	// A day has every time of day: looking further back finds nothing new.
	n := min(to.Unix()-from.Unix(), 24*60*60)
	const day = 24 * 60 * 60
	for s := to.Unix() - n + 1; s <= to.Unix(); s++ {
		of := int((s%day + day) % day)
		if c.matches(rtcSecAlrm, c.encode(of%60)) && c.matches(rtcMinAlrm, c.encode(of/60%60)) &&
			c.matches(rtcHrsAlrm, c.encodeHour(of/3600)) {
			return true
		}
	}
	return false
}

func (c *RTC) matches(alarm, v uint8) bool {
	a := c.cmos[alarm]
	return a >= 0xc0 || a == v
}

// Close stops the timer for good.
func (c *RTC) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = true
	c.timer.Stop()
}
