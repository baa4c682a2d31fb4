package net

import (
	"encoding/binary"

	"virtd/hypervisor/virtio/net/rss"
)

// Offsets in struct virtio_net_config (virtio 1.2, 5.1.4).
const (
	spaceMAC    = 0
	spaceStatus = 6
	spacePairs  = 8
	spaceMTU    = 10
	spaceSpeed  = 12
	spaceDuplex = 16
	spaceKey    = 17 // rss_max_key_size, with RSS or hash reports only
	spaceTable  = 18 // rss_max_indirection_table_length, with RSS only
	spaceHashes = 20 // supported_hash_types, with RSS or hash reports only
	spaceSize   = 24
)

// statusLinkUp is VIRTIO_NET_S_LINK_UP.
const statusLinkUp = 1

// ReadConfig implements virtio.Device. Speed and duplex are unknown, as of any tap.
func (d *Device) ReadConfig(offset int, p []byte) {
	var space [spaceSize]byte
	d.mu.Lock()
	copy(space[spaceMAC:], d.mac[:])
	d.mu.Unlock()
	if d.linkUp() {
		space[spaceStatus] = statusLinkUp
	}
	binary.LittleEndian.PutUint16(space[spacePairs:], uint16(len(d.taps)))
	binary.LittleEndian.PutUint16(space[spaceMTU:], uint16(d.cfg.MTU))
	binary.LittleEndian.PutUint32(space[spaceSpeed:], 0xffffffff)
	space[spaceDuplex] = 0xff
	if d.features&(featureRSS|featureHashReport) != 0 {
		space[spaceKey] = rss.KeySize
		binary.LittleEndian.PutUint32(space[spaceHashes:], rss.Supported)
	}
	if d.features&featureRSS != 0 {
		binary.LittleEndian.PutUint16(space[spaceTable:], rss.MaxTable)
	}
	clear(p)
	if offset >= 0 && offset < len(space) {
		copy(p, space[offset:])
	}
}

// WriteConfig implements virtio.Device. A VERSION_1 driver writes nothing here: the address is set by command.
func (d *Device) WriteConfig(int, []byte) {}

func (d *Device) linkUp() bool { return !d.linkDown.Load() && !d.tapLost.Load() }

// SetLink plugs the cable in or out. The driver is told. While it is out, packets of both directions are dropped.
func (d *Device) SetLink(up bool) {
	if d.linkDown.Swap(!up) == !up {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.env == nil {
		return
	}
	if d.data != nil {
		if err := d.switchLink(); err != nil {
			d.env.Fail(err)
		}
	}
	d.env.ConfigChanged()
}

// switchLink makes the backend act on the new link state: workers look at it, vhost hands over to workers or back, and
// vhost-user stops or starts.
func (d *Device) switchLink() error {
	if len(d.vhosts) > 0 || d.user != nil {
		d.data.stop()
		d.data = nil
		return d.startData()
	}
	for i := range d.taps {
		d.data.poke(i)
	}
	return nil
}

// LinkUp reports what the driver sees.
func (d *Device) LinkUp() bool { return d.linkUp() }
