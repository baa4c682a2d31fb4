package hypervisor

import (
	"sync"
	"time"
)

// machineClock is time that passes only while the machine runs: the ACPI timer counts it. It implements
// chipset.Clock.
type machineClock struct {
	mu      sync.Mutex
	base    time.Duration // machine time when it last started or stopped
	started time.Time     // zero while stopped
}

// Now implements chipset.Clock.
func (c *machineClock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *machineClock) now() time.Duration {
	if c.started.IsZero() {
		return c.base
	}
	return c.base + time.Since(c.started)
}

func (c *machineClock) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.started = c.now(), time.Now()
}

func (c *machineClock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.started = c.now(), time.Time{}
}
