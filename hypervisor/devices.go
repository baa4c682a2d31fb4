package hypervisor

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"virtd/hypervisor/irq"
	"virtd/hypervisor/pci"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/balloon"
	"virtd/hypervisor/virtio/input"
)

// devices are the devices behind the virtio transport and the functions of the host, in the order in which they came.
type devices struct {
	// mu guards the three lists for those that only look; who changes one holds Machine.mu too. A device is closed after
	// it left the lists, so that what is found in them under mu works.
	mu    sync.RWMutex
	list  []device
	disks []disk
	nics  []nic
	// vhostUserDisks are guarded as those are.
	vhostUserDisks []vhostUserDisk

	consoles    []console
	keyboards   []*input.Device
	hostdevs    hostdevs
	balloon     *balloon.Device // nil for none
	statsPeriod atomic.Int64    // seconds
}

type device struct {
	id        string
	at        pci.Address
	function  *pci.Function
	transport *virtio.PCI // nil for a function of the host
	removable bool        // comes and goes; the others are part of the machine
	close     func()      // releases what the device itself holds; may be nil
	wanted    *time.Time  // when the guest was asked because the host wants it back; zero for never
	requested *time.Time  // when the guest was last asked to let go of it; zero for never
	workers   int         // that the scheduler was told of when the device came to a running machine
}

func (m *Machine) makeDevices() error {
	for i := range m.cfg.Disks {
		if err := m.makeDisk(&m.cfg.Disks[i]); err != nil {
			return fmt.Errorf("disk %s: %w", m.cfg.Disks[i].ID, err)
		}
	}
	for i := range m.cfg.VhostUserDisks {
		if err := m.makeVhostUserDisk(&m.cfg.VhostUserDisks[i]); err != nil {
			return fmt.Errorf("disk %s: %w", m.cfg.VhostUserDisks[i].ID, err)
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
	for i := range m.cfg.Keyboards {
		if err := m.makeKeyboard(&m.cfg.Keyboards[i]); err != nil {
			return fmt.Errorf("keyboard %s: %w", m.cfg.Keyboards[i].ID, err)
		}
	}
	for i := range m.devices.list {
		if at := m.devices.list[i].at; at.Function != 0 {
			m.board.hotplug.Fix(at)
		}
	}
	return nil
}

// add puts a virtio device behind the PCI transport at its address. It owns the device from then on: when it fails, release
// was called.
func (m *Machine) add(w Transport, id string, at PCIAddress, dev virtio.Device, release func()) error {
	t, err := m.transport(w, id, at, dev)
	if err != nil {
		if release != nil {
			release()
		}
		return err
	}
	if m.frozen.yes {
		t.Quiesce() // as the others are
	}
	return m.plug(device{id: id, at: pciAddress(at), function: t.Function(), transport: t, removable: removable(dev.ID()), close: release})
}

// plug puts a device on its bus. When it fails, the device was freed.
func (m *Machine) plug(d device) error {
	d.requested, d.wanted = &time.Time{}, &time.Time{}
	if err := m.board.root.Add(d.at, d.function); err != nil {
		d.free()
		return err
	}
	m.board.hotplug.Occupy(d.at, d.removable)
	m.devices.mu.Lock()
	m.devices.list = append(m.devices.list, d)
	m.devices.mu.Unlock()
	return nil
}

// removable says which types of virtio device come and go.
func removable(id virtio.DeviceID) bool {
	return id == virtio.IDBlock || id == virtio.IDNet || id == virtio.IDEntropy
}

// free stops a device and releases what it holds. No vCPU is inside it.
func (d *device) free() {
	if d.transport != nil {
		d.transport.Close()
	}
	if d.close != nil {
		d.close()
	}
}

// servesPacked reports whether the queues of a device can have packed rings, which matters where others serve them.
func (m *Machine) servesPacked(id string, dev virtio.Device) bool {
	if d, ok := dev.(virtio.PackedServer); ok && !d.ServesPacked() {
		m.host.Logf("%s: who serves its queues has no packed virtqueues; the driver gets split ones", id)
		return false
	}
	return true
}

func (m *Machine) transport(w Transport, id string, at PCIAddress, dev virtio.Device) (*virtio.PCI, error) {
	cfg := virtio.PCIConfig{Name: id, Device: dev, Memory: m.mem, Interrupts: m.irq, Logf: m.host.Logf,
		AccessPlatform: w.AccessPlatform, PagePerVQ: w.PagePerVQ, Packed: w.Packed && m.servesPacked(id, dev)}
	if !w.NoIOEventFD {
		cfg.Doorbells = irq.NewDoorbells(m.vm)
	}
	if m.layout.q35 {
		kind := pci.ExpressEndpoint
		if at.Bus == 0 {
			kind = pci.ExpressIntegrated
		}
		cfg.Express = &kind
	}
	return virtio.NewPCI(cfg)
}

// start connects the consoles to the world.
func (d *devices) start() {
	for _, c := range d.consoles {
		c.port.Start(c.dev)
	}
}

// virtio returns the devices behind the virtio transport.
func (d *devices) virtio() []device {
	return slices.DeleteFunc(slices.Clone(d.list), func(dev device) bool { return dev.transport == nil })
}

func (d *devices) quiesce() {
	for _, dev := range d.virtio() {
		dev.transport.Quiesce()
	}
}

func (d *devices) resume() {
	for _, dev := range d.virtio() {
		dev.transport.Resume()
	}
}

func (d *devices) reset() {
	for _, dev := range d.virtio() {
		dev.transport.Reset()
	}
}

func (d *devices) close() {
	for i := range d.list {
		d.list[i].free()
	}
	d.list = nil
}
