package hypervisor

import (
	"fmt"

	"virtd/hypervisor/irq"
	"virtd/hypervisor/pci"
	"virtd/hypervisor/virtio"
	virtionet "virtd/hypervisor/virtio/net"
)

// devices are the devices behind the virtio transport, in the order of the configuration.
type devices struct {
	list []device
	nics []nic
}

type device struct {
	id        string
	transport *virtio.PCI
	close     func() // releases what the device itself holds; may be nil
}

type nic struct {
	cfg *NIC
	dev *virtionet.Device
}

// driverVhost is the NIC.Driver that hands packets to the kernel.
const driverVhost = "vhost"

func (m *Machine) makeDevices() error {
	for i := range m.cfg.NICs {
		if err := m.makeNIC(&m.cfg.NICs[i]); err != nil {
			return fmt.Errorf("network device %s: %w", m.cfg.NICs[i].ID, err)
		}
	}
	return nil
}

// add puts a virtio device behind the PCI transport at its address.
func (m *Machine) add(id string, at PCIAddress, dev virtio.Device, release func()) error {
	cfg := virtio.PCIConfig{Name: id, Device: dev, Memory: m.mem, Interrupts: m.irq, Doorbells: irq.NewDoorbells(m.vm), Logf: m.host.Logf}
	if m.layout.q35 {
		kind := pci.ExpressEndpoint
		if at.Bus == 0 {
			kind = pci.ExpressIntegrated
		}
		cfg.Express = &kind
	}
	t, err := virtio.NewPCI(cfg)
	if err != nil {
		return err
	}
	m.devices.list = append(m.devices.list, device{id, t, release})
	return m.board.root.Add(pciAddress(at), t.Function())
}

func (m *Machine) makeNIC(c *NIC) error {
	mac, err := parseMAC(c.MAC)
	if err != nil {
		return err
	}
	taps, err := m.host.takeAll(c.Taps, "tap")
	if err != nil {
		return err
	}
	var vhosts []int
	if c.Driver == driverVhost {
		if vhosts, err = m.host.takeAll(c.Vhosts, "vhost"); err != nil {
			return err
		}
	}
	dev, err := virtionet.New(virtionet.Config{
		ID: c.ID, MAC: mac, Taps: taps, Vhosts: vhosts, MTU: c.MTU, LinkDown: c.LinkDown,
		RxQueueSize: c.RxQueueSize, TxQueueSize: c.TxQueueSize, Offloads: c.Offloads, Log: m.host.Logf,
	})
	if err != nil {
		return err
	}
	m.devices.nics = append(m.devices.nics, nic{c, dev})
	return m.add(c.ID, c.Address, dev, dev.Close)
}

// parseMAC reads six bytes in hexadecimal with colons.
func parseMAC(s string) (mac [6]byte, err error) {
	if n, err := fmt.Sscanf(s, "%02x:%02x:%02x:%02x:%02x:%02x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]); err != nil || n != 6 || len(s) != 17 {
		return mac, fmt.Errorf("%q is not a MAC address", s)
	}
	return mac, nil
}

func (d *devices) quiesce() {
	for _, dev := range d.list {
		dev.transport.Quiesce()
	}
}

func (d *devices) resume() {
	for _, dev := range d.list {
		dev.transport.Resume()
	}
}

func (d *devices) reset() {
	for _, dev := range d.list {
		dev.transport.Reset()
	}
}

func (d *devices) close() {
	for _, dev := range d.list {
		dev.transport.Close()
		if dev.close != nil {
			dev.close()
		}
	}
}
