package hypervisor

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block"
	"virtd/hypervisor/monitor"
	"virtd/hypervisor/virtio/blk"
)

type disk struct {
	cfg    *Disk
	dev    *blk.Device
	limits limits
}

// Image formats. They are never guessed from what a guest can write.
const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

func (m *Machine) makeDisk(c *Disk) error {
	throttle, err := newThrottle(c.Throttle)
	if err != nil {
		return err
	}
	img, err := m.openImage(c)
	if err != nil {
		return err
	}
	queues := c.Queues
	if queues == 0 {
		queues = min(m.cfg.CPU.Count, blk.MaxQueues)
	}
	dev, err := blk.New(img, blk.Config{Name: c.ID, Serial: c.Serial, Queues: queues, QueueSize: c.QueueSize,
		LogicalBlock: c.LogicalBlock, PhysBlock: c.PhysBlock, IO: c.IO, Logf: m.host.Logf,
		Failed: func(write bool, reason error) { m.host.Event(ioErrorEvent(c.ID, write, reason)) }})
	if err != nil {
		return err
	}
	err = m.add(c.Transport, c.ID, c.Address, dev, func() {
		if err := dev.Close(); err != nil {
			m.host.Logf("disk %s: %v", c.ID, err)
		}
	})
	if err == nil {
		m.devices.mu.Lock()
		m.devices.disks = append(m.devices.disks, disk{cfg: c, dev: dev})
		m.devices.join(len(m.devices.disks)-1, c.Throttle, throttle)
		m.devices.mu.Unlock()
	}
	return err
}

// ioErrorEvent tells that the host refused a request of a disk, of which the guest has heard.
func ioErrorEvent(id string, write bool, reason error) monitor.Event {
	operation := "read"
	if write {
		operation = "write"
	}
	return monitor.Event{Name: monitor.EventBlockIOError, Data: map[string]any{"device": id, "operation": operation,
		"action": "report", "nospace": errors.Is(reason, unix.ENOSPC), "reason": reason.Error()}}
}

// openImage opens a disk's image chain from its end.
func (m *Machine) openImage(c *Disk) (*block.Image, error) {
	var img *block.Image
	for i := len(c.Backing) - 1; i >= 0; i-- {
		b := c.Backing[i]
		lower, err := m.openLayer(b.File, b.Format, block.Options{ReadOnly: true, Cache: block.Cache(c.Cache)}, img)
		if err != nil {
			return nil, fmt.Errorf("backing image %d: %w", i+1, err)
		}
		img = lower
	}
	return m.openLayer(c.File, c.Format, block.Options{ReadOnly: c.ReadOnly, Cache: block.Cache(c.Cache), Discard: c.Discard,
		DetectZeroes: block.DetectZeroes(c.DetectZeroes), Report: func(err error) {
			m.host.Logf("disk %s: %v (the guest sees I/O errors, and nothing is written any more)", c.ID, err)
		}}, img)
}

// openLayer opens one image over lower, which it owns from then on; nil is none.
func (m *Machine) openLayer(name FileName, format string, o block.Options, lower *block.Image) (*block.Image, error) {
	closing := func(err error) error {
		if lower != nil {
			err = errors.Join(err, lower.Close())
		}
		return err
	}
	if format != formatRaw && format != formatQcow2 {
		return nil, closing(fmt.Errorf("image format %q: this engine has raw and qcow2", format))
	}
	if format == formatRaw && lower != nil {
		return nil, closing(errors.New("a raw image has no backing image"))
	}
	fd, err := m.host.take(name, "image")
	if err != nil {
		return nil, closing(err)
	}
	if format == formatRaw {
		return block.Open(fd, o)
	}
	img, err := block.OpenQcow2(fd, o, lower)
	if err == nil && img.Repaired() {
		m.host.Logf("image %s had not been closed; its refcounts were repaired", name)
	}
	return img, err
}
