package hypervisor

import (
	"time"

	"virtd/hypervisor/virtio/rng"
)

func (m *Machine) makeRNG(c *RNG) error {
	fd := -1
	if c.File != "" {
		var err error
		if fd, err = m.host.take(c.File, "entropy source"); err != nil {
			return err
		}
	}
	dev, err := rng.New(rng.Config{Name: c.ID, FD: fd, Bytes: c.RateBytes, Period: time.Duration(c.RatePeriod) * time.Millisecond, Logf: m.host.Logf})
	if err != nil {
		return err
	}
	return m.add(c.Transport, c.ID, c.Address, dev, func() { dev.Close() })
}
