package hypervisor

import (
	"virtd/hypervisor/virtio"
)

// devices are the PCI devices behind the virtio transport, in the order of the configuration.
type devices struct {
	list []device
}

type device struct {
	id        string
	transport *virtio.PCI
}

func (m *Machine) makeDevices() error { return nil }

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
	}
}
