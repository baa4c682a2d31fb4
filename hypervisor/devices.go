package hypervisor

import (
	"fmt"
	"sync/atomic"

	"virtd/hypervisor/irq"
	"virtd/hypervisor/pci"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/balloon"
)

// devices are the devices behind the virtio transport, in the order of the configuration.
type devices struct {
	list  []device
	disks []disk
	nics  []nic

	consoles    []console
	hostdevs    hostdevs
	balloon     *balloon.Device // nil for none
	statsPeriod atomic.Int64    // seconds
}

type device struct {
	id        string
	transport *virtio.PCI
	close     func() // releases what the device itself holds; may be nil
}

func (m *Machine) makeDevices() error {
	for i := range m.cfg.Disks {
		if err := m.makeDisk(&m.cfg.Disks[i]); err != nil {
			return fmt.Errorf("disk %s: %w", m.cfg.Disks[i].ID, err)
		}
	}
	for i := range m.cfg.NICs {
		if err := m.makeNIC(&m.cfg.NICs[i]); err != nil {
			return fmt.Errorf("network device %s: %w", m.cfg.NICs[i].ID, err)
		}
	}
	for i := range m.cfg.Consoles {
		if err := m.makeConsole(&m.cfg.Consoles[i]); err != nil {
			return fmt.Errorf("console %s: %w", m.cfg.Consoles[i].ID, err)
		}
	}
	if err := m.makeHostdevs(); err != nil {
		return err
	}
	if b := m.cfg.Balloon; b != nil {
		if err := m.makeBalloon(b); err != nil {
			return fmt.Errorf("balloon %s: %w", b.ID, err)
		}
	}
	for i := range m.cfg.RNGs {
		if err := m.makeRNG(&m.cfg.RNGs[i]); err != nil {
			return fmt.Errorf("entropy device %s: %w", m.cfg.RNGs[i].ID, err)
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

// start connects the consoles to the world.
func (d *devices) start() {
	for _, c := range d.consoles {
		c.port.Start(c.dev)
	}
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
	d.hostdevs.close()
}
