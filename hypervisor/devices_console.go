package hypervisor

import (
	"virtd/hypervisor/chardev"
	virtioconsole "virtd/hypervisor/virtio/console"
)

type console struct {
	id   string
	dev  *virtioconsole.Device
	port *chardev.Port
}

func (m *Machine) makeConsole(c *Console) error {
	port, err := m.host.chardev(c.Chardev, "console "+c.ID)
	if err != nil {
		return err
	}
	dev := virtioconsole.New(port, virtioconsole.Config{Name: c.ID})
	m.devices.consoles = append(m.devices.consoles, console{c.ID, dev, port})
	return m.add(c.Transport, c.ID, c.Address, dev, func() { port.Close() })
}
