package net

import (
	"encoding/binary"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/net/rss"
)

// Hash reports (VIRTIO_NET_F_HASH_REPORT; virtio 1.3, 5.1.6.4.3): the header of a packet that the guest receives says its hash,
// which the engine calculates from the packet in the guest's memory. The last good command of the driver counts, whether it is
// about hashes alone or about receive-side scaling too; before it, and with no types of hashes, packets have none. Setting a
// number of queue pairs changes nothing in it.

// hashHeadSize is the size of struct virtio_net_hash_config before the key: hash_types, reserved, hash_key_length. The reserved
// bytes, where virtio_net_rss_config has its table, are not looked at: Linux' driver fills them.
const hashHeadSize = 4 + 8 + 1

// setHash executes VIRTIO_NET_CTRL_MQ_HASH_CONFIG. The command is that of automatic steering, so it ends receive-side scaling,
// as QEMU has it.
func (d *Device) setHash(c *virtio.Chain) bool {
	hash, ok := readHash(c)
	if !ok || hash.Check() != nil {
		return false
	}
	d.steerAutomatically()
	d.hasher.Store(rss.NewHasher(hash))
	return true
}

// readHash reads the command and reports whether it is whole.
func readHash(c *virtio.Chain) (hash rss.Hash, ok bool) {
	var head [hashHeadSize]byte
	if c.CopyIn(head[:], controlHdrSize) != len(head) {
		return hash, false
	}
	hash.Types = binary.LittleEndian.Uint32(head[:])
	key := int(head[hashHeadSize-1])
	return hash, key <= rss.KeySize && c.CopyIn(hash.Key[:key], controlHdrSize+hashHeadSize) == key
}

// setHeaders has packets come and go with the header that the driver expects. The caller holds mu, and no packets move.
func (d *Device) setHeaders() error {
	size := uint64(headerSize)
	if d.has(featureHashReport) {
		size = hashHeaderSize
	}
	for i := range d.taps {
		if err := d.taps[i].setHeader(size); err != nil {
			return err
		}
	}
	return nil
}
