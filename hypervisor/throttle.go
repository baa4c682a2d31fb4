package hypervisor

import (
	"fmt"

	"virtd/hypervisor/block"
	"virtd/hypervisor/monitor"
)

// limits are what a disk is held to.
type limits struct {
	throttle Throttle
	enforced *block.Throttle // nil: none
}

// newThrottle makes what enforces c; nil where it limits nothing.
func newThrottle(c *Throttle) (*block.Throttle, error) {
	if c == nil || c.Limits == (block.Limits{}) {
		return nil, nil
	}
	return block.NewThrottle(c.Limits)
}

// SetThrottle replaces the limits of a disk, and of all disks of the group that it has from now on; nil ends them. What waits
// for the old limits waits for the new ones.
func (m *Machine) SetThrottle(id string, c *Throttle) error {
	t, err := newThrottle(c)
	if err != nil {
		return err
	}
	m.devices.mu.Lock()
	defer m.devices.mu.Unlock()
	for i := range m.devices.disks {
		if m.devices.disks[i].cfg.ID == id {
			m.devices.limit(i, c, t)
			return nil
		}
	}
	return fmt.Errorf("disk %q: %w", id, monitor.ErrNotFound)
}

// limit makes t hold the disk at place i, and its group, to c. The caller holds mu.
func (d *devices) limit(i int, c *Throttle, t *block.Throttle) {
	if t == nil {
		c = &Throttle{}
	}
	for k := range d.disks {
		if other := &d.disks[k]; k == i || c.Group != "" && other.limits.throttle.Group == c.Group {
			other.limits = limits{*c, t}
			other.dev.SetThrottle(t)
		}
	}
}

// join is limit for a disk that is new: it shares what its group has, if that is the same. The caller holds mu.
func (d *devices) join(i int, c *Throttle, t *block.Throttle) {
	if t == nil {
		return
	}
	for k := range d.disks {
		if l := d.disks[k].limits; k != i && c.Group != "" && l.throttle == *c {
			d.disks[i].limits = l
			d.disks[i].dev.SetThrottle(l.enforced)
			return
		}
	}
	d.limit(i, c, t)
}
