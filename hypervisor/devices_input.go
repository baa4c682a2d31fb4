package hypervisor

import (
	"fmt"
	"time"

	"virtd/hypervisor/monitor"
	"virtd/hypervisor/virtio/input"
)

func (m *Machine) makeKeyboard(c *Keyboard) error {
	dev := input.New(input.Config{Name: c.ID})
	if err := m.add(c.Transport, c.ID, c.Address, dev, nil); err != nil {
		return err
	}
	m.devices.keyboards = append(m.devices.keyboards, dev)
	return nil
}

// SendKey presses keys at the machine's first keyboard, in their order, and releases them after hold. Keys are Linux' (see
// package virtio/input). It does not wait for the guest.
func (m *Machine) SendKey(keys []uint16, hold time.Duration) error {
	if len(m.devices.keyboards) == 0 {
		return fmt.Errorf("send keys: the machine has no keyboard: %w", monitor.ErrNotFound)
	}
	return m.devices.keyboards[0].Press(keys, hold)
}
