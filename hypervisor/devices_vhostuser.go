package hypervisor

import (
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/monitor"
	"virtd/hypervisor/vhostuser"
)

type vhostUserDisk struct {
	cfg *VhostUserDisk
	dev *vhostuser.Block
}

// takeVhostUser returns the descriptors of a vhost-user device; listen is -1 for none. On an error none is taken.
func (h *Host) takeVhostUser(c *VhostUser) (conn, listen int, err error) {
	if conn, err = h.take(c.Socket, "vhost-user socket"); err != nil || c.Listen == "" {
		return conn, -1, err
	}
	if listen, err = h.take(c.Listen, "listening vhost-user socket"); err != nil {
		unix.Close(conn)
	}
	return conn, listen, err
}

// vhostUserChanged tells the monitor's clients when the back end of a device comes and goes.
func (m *Machine) vhostUserChanged(id string) func(bool) {
	return func(connected bool) {
		m.host.Event(monitor.Event{Name: monitor.EventVhostUser, Data: map[string]any{"device": id, "connected": connected}})
	}
}

func (m *Machine) makeVhostUserDisk(c *VhostUserDisk) error {
	conn, listen, err := m.host.takeVhostUser(&c.VhostUser)
	if err != nil {
		return err
	}
	dev, err := vhostuser.NewBlock(conn, listen, vhostuser.BlockConfig{
		Name: c.ID, Queues: c.Queues, MostQueues: m.cfg.CPU.Count, QueueSize: c.QueueSize, Changed: m.vhostUserChanged(c.ID), Log: m.host.Logf,
	})
	if err != nil {
		return err
	}
	m.dirty.Add(c.ID, &backendWrites{dev.Backend(), m.mem})
	if err := m.add(c.Transport, c.ID, c.Address, dev, m.unrecorded(c.ID, dev.Close)); err != nil {
		return err
	}
	m.devices.mu.Lock()
	m.devices.vhostUserDisks = append(m.devices.vhostUserDisks, vhostUserDisk{c, dev})
	m.devices.mu.Unlock()
	return nil
}

// VhostUsers implements monitor.Machine.
func (c control) VhostUsers() []monitor.VhostUser {
	c.devices.mu.RLock()
	defer c.devices.mu.RUnlock()
	out := []monitor.VhostUser{}
	for _, d := range c.devices.vhostUserDisks {
		out = append(out, monitor.VhostUser{ID: d.cfg.ID, Connected: d.dev.Backend().Connected()})
	}
	for _, n := range c.devices.nics {
		if n.cfg.VhostUser != nil {
			out = append(out, monitor.VhostUser{ID: n.cfg.ID, Connected: n.dev.BackendConnected()})
		}
	}
	return out
}

// ReconnectVhostUser implements monitor.Machine. The device may not be freed meanwhile, and the back end is given its time:
// mu is not held while it answers.
func (c control) ReconnectVhostUser(id string, fd int) error {
	replace := c.vhostUser(id)
	if replace == nil {
		unix.Close(fd)
		return fmt.Errorf("vhost-user device %q: %w", id, monitor.ErrNotFound)
	}
	return replace(fd)
}

func (c control) vhostUser(id string) func(int) error {
	c.devices.mu.RLock()
	defer c.devices.mu.RUnlock()
	for _, d := range c.devices.vhostUserDisks {
		if d.cfg.ID == id {
			return d.dev.Backend().Replace
		}
	}
	for _, n := range c.devices.nics {
		if n.cfg.ID == id && n.cfg.VhostUser != nil {
			return n.dev.Reconnect
		}
	}
	return nil
}
