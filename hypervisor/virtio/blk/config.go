package blk

import (
	"encoding/binary"
	"math/bits"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio"
)

// Feature bits (virtio 1.2, 5.2.3).
const (
	FeatureSegMax      uint64 = 1 << 2  // VIRTIO_BLK_F_SEG_MAX
	FeatureRO          uint64 = 1 << 5  // VIRTIO_BLK_F_RO
	FeatureBlkSize     uint64 = 1 << 6  // VIRTIO_BLK_F_BLK_SIZE
	FeatureFlush       uint64 = 1 << 9  // VIRTIO_BLK_F_FLUSH
	FeatureTopology    uint64 = 1 << 10 // VIRTIO_BLK_F_TOPOLOGY
	FeatureConfigWCE   uint64 = 1 << 11 // VIRTIO_BLK_F_CONFIG_WCE
	FeatureMQ          uint64 = 1 << 12 // VIRTIO_BLK_F_MQ
	FeatureDiscard     uint64 = 1 << 13 // VIRTIO_BLK_F_DISCARD
	FeatureWriteZeroes uint64 = 1 << 14 // VIRTIO_BLK_F_WRITE_ZEROES
)

// Layout of struct virtio_blk_config (5.2.4).
const (
	cfgCapacity       = 0  // le64, 512-byte sectors
	cfgSegMax         = 12 // le32
	cfgBlkSize        = 20 // le32
	cfgPhysExp        = 24 // u8, physical block is blk_size << this
	cfgMinIO          = 26 // le16, logical blocks
	cfgOptIO          = 28 // le32, logical blocks
	cfgWriteback      = 32 // u8
	cfgNumQueues      = 34 // le16
	cfgMaxDiscard     = 36 // le32, sectors
	cfgMaxDiscardSeg  = 40 // le32
	cfgDiscardAlign   = 44 // le32, sectors
	cfgMaxZeroes      = 48 // le32, sectors
	cfgMaxZeroesSeg   = 52 // le32
	cfgZeroesMayUnmap = 56 // u8
	cfgSize           = 60
)

const (
	sectorSize = 512
	// maxRangeSectors limits one discard or write-zeroes segment to 2 GiB less a sector.
	maxRangeSectors = 1<<22 - 1
	maxSegments     = 1 // of a discard or write-zeroes request
	serialSize      = 20
	// maxQueueSize keeps a request of one page segments within one preadv.
	maxQueueSize = virtio.MaxChain
)

// configSpace builds the configuration as it is now. The caller holds mu.
func (d *Device) configSpace() [cfgSize]byte {
	var b [cfgSize]byte
	le := binary.LittleEndian
	le.PutUint64(b[cfgCapacity:], d.capacity.Load())
	le.PutUint32(b[cfgSegMax:], uint32(d.cfg.QueueSize)-2) // header and status take two
	le.PutUint32(b[cfgBlkSize:], uint32(d.cfg.LogicalBlock))
	b[cfgPhysExp] = byte(bits.TrailingZeros(uint(d.cfg.PhysBlock)) - bits.TrailingZeros(uint(d.cfg.LogicalBlock)))
	le.PutUint16(b[cfgMinIO:], uint16(d.cfg.PhysBlock/d.cfg.LogicalBlock))
	if d.writeback.Load() {
		b[cfgWriteback] = 1
	}
	le.PutUint16(b[cfgNumQueues:], uint16(d.cfg.Queues))
	if d.img.Options().Discard {
		le.PutUint32(b[cfgMaxDiscard:], maxRangeSectors)
		le.PutUint32(b[cfgMaxDiscardSeg:], maxSegments)
		le.PutUint32(b[cfgDiscardAlign:], uint32(d.cfg.LogicalBlock/sectorSize))
		b[cfgZeroesMayUnmap] = 1
	}
	le.PutUint32(b[cfgMaxZeroes:], maxRangeSectors)
	le.PutUint32(b[cfgMaxZeroesSeg:], maxSegments)
	return b
}

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := virtio.FeatureIndirectDesc | virtio.FeatureEventIdx |
		FeatureSegMax | FeatureBlkSize | FeatureTopology | FeatureFlush | FeatureConfigWCE
	if d.cfg.Queues > 1 {
		f |= FeatureMQ
	}
	if d.img.Options().ReadOnly {
		return f | FeatureRO
	}
	if f |= FeatureWriteZeroes; d.img.Options().Discard {
		f |= FeatureDiscard
	}
	return f
}

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 {
	s := make([]uint16, d.cfg.Queues)
	for i := range s {
		s[i] = uint16(d.cfg.QueueSize)
	}
	return s
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(offset int, p []byte) {
	clear(p)
	if b := d.configSpace(); offset < len(b) {
		copy(p, b[offset:])
	}
}

// WriteConfig implements virtio.Device: the driver may switch between write-back and write-through (5.2.5.1).
func (d *Device) WriteConfig(offset int, p []byte) {
	if offset == cfgWriteback && len(p) == 1 && p[0] <= 1 {
		d.writeback.Store(p[0] == 1)
	}
}

// startsWriteback says what the cache mode means for a driver that changes nothing.
func startsWriteback(c block.Cache) bool {
	return c != block.CacheWritethrough && c != block.CacheDirectsync
}
