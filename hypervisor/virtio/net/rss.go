package net

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/net/rss"
)

// scaling is receive-side scaling as the driver wants it (virtio 1.2, 5.1.6.5.7), kept under Device.mu.
type scaling struct {
	shared []byte      // memory of the program's map
	config *rss.Config // nil: the kernel chooses queues. It does not change once it is here
	active bool        // the tap has the program
}

// openSteering maps the memory that the tap's program reads.
func (d *Device) openSteering() (err error) {
	if d.cfg.Steering == nil {
		return nil
	}
	d.rss.shared, err = unix.Mmap(d.cfg.Steering.Map, 0, rss.MapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the table of receive-side scaling: %w", err)
	}
	return nil
}

func (d *Device) closeSteering() {
	if d.cfg.Steering == nil {
		return
	}
	d.steerAutomatically() // the tap may stay
	if d.rss.shared != nil {
		_ = unix.Munmap(d.rss.shared)
	}
	unix.Close(d.cfg.Steering.Program)
	unix.Close(d.cfg.Steering.Map)
}

// steerBy spreads packets as c says, from now on. On an error all is as before. The caller holds mu.
func (d *Device) steerBy(c *rss.Config) error {
	c.Store(d.rss.shared)
	if !d.rss.active {
		if err := d.taps[0].ops.setProgram(d.taps[0].fd, d.cfg.Steering.Program); err != nil {
			return fmt.Errorf("give the tap its program for receive-side scaling: %w", err)
		}
	}
	d.rss.config, d.rss.active = c, true
	if n := c.Pairs(); n != int(d.pairs.Load()) {
		d.steer(n)
	}
	return nil
}

// steerAutomatically leaves the choice of queues to the kernel again. The caller holds mu.
func (d *Device) steerAutomatically() {
	if d.rss.active {
		if err := d.taps[0].ops.setProgram(d.taps[0].fd, -1); err != nil && !d.tapLost.Load() {
			d.cfg.Log("%s: take the program for receive-side scaling from the tap: %v", d.cfg.ID, err)
		}
	}
	d.rss.config, d.rss.active = nil, false
}

// Parts of struct virtio_net_rss_config before the table, and behind it before the key.
const (
	rssHeadSize = 8 // hash_types, indirection_table_mask, unclassified_queue
	rssTailSize = 3 // max_tx_vq, hash_key_length
)

// setRSS executes VIRTIO_NET_CTRL_MQ_RSS_CONFIG.
func (d *Device) setRSS(c *virtio.Chain) bool {
	config, ok := readRSS(c)
	if !ok || config.Check(len(d.taps)) != nil {
		return false
	}
	for _, queue := range append([]uint16{config.Unclassified}, config.Table...) {
		if rx, _ := d.pairQueues(int(queue)); rx == nil {
			return false // packets would go where nobody takes them
		}
	}
	if d.steerBy(config) != nil {
		return false // virtd has asked the tap: only one that is gone takes no program
	}
	if d.has(featureHashReport) {
		d.hasher.Store(rss.NewHasher(config.Hash()))
	}
	return true
}

// readRSS reads the command and reports whether it is whole. It looks at no more of the numbers than it needs to find its parts.
func readRSS(c *virtio.Chain) (*rss.Config, bool) {
	order := binary.LittleEndian
	var head [rssHeadSize]byte
	at := uint64(controlHdrSize)
	if c.CopyIn(head[:], at) != len(head) {
		return nil, false
	}
	at += rssHeadSize
	n := int(order.Uint16(head[4:])) + 1
	if n > rss.MaxTable {
		return nil, false
	}
	config := &rss.Config{Types: order.Uint32(head[0:]), Unclassified: order.Uint16(head[6:]), Table: make([]uint16, n)}
	var rest [2*rss.MaxTable + rssTailSize]byte
	tail := rest[2*n : 2*n+rssTailSize]
	if c.CopyIn(rest[:2*n+rssTailSize], at) != 2*n+rssTailSize {
		return nil, false
	}
	at += uint64(2*n + rssTailSize)
	for i := range config.Table {
		config.Table[i] = order.Uint16(rest[2*i:])
	}
	config.MaxTx = order.Uint16(tail)
	key := int(tail[2])
	if key > rss.KeySize || c.CopyIn(config.Key[:key], at) != key {
		return nil, false
	}
	return config, true
}
