package hypervisor

import (
	"fmt"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio/blk"
)

type disk struct {
	cfg *Disk
	dev *blk.Device
}

// formatRaw is the only image format so far. It is never guessed from what a guest can write.
const formatRaw = "raw"

func (m *Machine) makeDisk(c *Disk) error {
	if c.Format != formatRaw {
		return fmt.Errorf("image format %q: this engine has raw", c.Format)
	}
	fd, err := m.host.take(c.File, "image")
	if err != nil {
		return err
	}
	img, err := block.Open(fd, block.Options{ReadOnly: c.ReadOnly, Cache: block.Cache(c.Cache), Discard: c.Discard,
		DetectZeroes: block.DetectZeroes(c.DetectZeroes)})
	if err != nil {
		return err
	}
	queues := c.Queues
	if queues == 0 {
		queues = min(m.cfg.CPU.Count, blk.MaxQueues)
	}
	dev, err := blk.New(img, blk.Config{Name: c.ID, Serial: c.Serial, Queues: queues, QueueSize: c.QueueSize,
		LogicalBlock: c.LogicalBlock, PhysBlock: c.PhysBlock, IO: c.IO, Logf: m.host.Logf})
	if err != nil {
		return err
	}
	err = m.add(c.ID, c.Address, dev, func() {
		if err := dev.Close(); err != nil {
			m.host.Logf("disk %s: %v", c.ID, err)
		}
	})
	if err == nil {
		m.devices.mu.Lock()
		m.devices.disks = append(m.devices.disks, disk{c, dev})
		m.devices.mu.Unlock()
	}
	return err
}
