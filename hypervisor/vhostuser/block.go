package vhostuser

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"virtd/hypervisor/virtio"
)

// Block is a virtio block device whose requests a back end serves (vhost-user-blk). It implements virtio.Device.
type Block struct {
	cfg     BlockConfig
	backend *Backend
	env     atomic.Pointer[virtio.Env]
}

// BlockConfig describes a disk. Zero values are the defaults in brackets.
type BlockConfig struct {
	Name      string
	Queues    int // [what the back end serves, up to MostQueues]
	QueueSize int // entries [128], a power of two from 4 to 1024
	// MostQueues bounds the default of Queues, 1 to MaxBlockQueues.
	MostQueues int
	// Changed is called when the back end came or went. It must not block.
	Changed func(connected bool)
	Log     func(format string, args ...any)
}

// MaxBlockQueues is the largest number of virtqueues of a disk.
const MaxBlockQueues = 16

const defaultBlockQueueSize = 128

// Feature bits of block devices (virtio 1.2, 5.2.3).
const (
	blkSizeMax     uint64 = 1 << 1  // VIRTIO_BLK_F_SIZE_MAX
	blkSegMax      uint64 = 1 << 2  // VIRTIO_BLK_F_SEG_MAX
	blkGeometry    uint64 = 1 << 4  // VIRTIO_BLK_F_GEOMETRY
	blkReadOnly    uint64 = 1 << 5  // VIRTIO_BLK_F_RO
	blkBlkSize     uint64 = 1 << 6  // VIRTIO_BLK_F_BLK_SIZE
	blkFlush       uint64 = 1 << 9  // VIRTIO_BLK_F_FLUSH
	blkTopology    uint64 = 1 << 10 // VIRTIO_BLK_F_TOPOLOGY
	blkConfigWCE   uint64 = 1 << 11 // VIRTIO_BLK_F_CONFIG_WCE
	blkMQ          uint64 = 1 << 12 // VIRTIO_BLK_F_MQ
	blkDiscard     uint64 = 1 << 13 // VIRTIO_BLK_F_DISCARD
	blkWriteZeroes uint64 = 1 << 14 // VIRTIO_BLK_F_WRITE_ZEROES

	blkFeatures = blkSizeMax | blkSegMax | blkGeometry | blkReadOnly | blkBlkSize | blkFlush | blkTopology | blkConfigWCE |
		blkMQ | blkDiscard | blkWriteZeroes | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
)

// Fields of struct virtio_blk_config (virtio 1.2, 5.2.4).
const (
	blkCapacity   = 0  // le64, 512-byte sectors
	blkWriteback  = 32 // u8
	blkNumQueues  = 34 // le16
	blkConfigSize = 60 // with write_zeroes_may_unmap and its padding
)

// NewBlock takes over conn and listen as New does, and makes the back end's disk.
func NewBlock(conn, listen int, cfg BlockConfig) (*Block, error) {
	d := &Block{cfg: cfg}
	if d.cfg.QueueSize == 0 {
		d.cfg.QueueSize = defaultBlockQueueSize
	}
	var err error
	d.backend, err = New(conn, listen, Config{
		Name: cfg.Name, Queues: max(cfg.Queues, 1), ConfigSize: blkConfigSize, Changed: d.changed, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	if d.cfg.Queues == 0 {
		d.cfg.Queues = max(min(cfg.MostQueues, d.backend.Queues(), MaxBlockQueues), 1)
	}
	if n := d.cfg.QueueSize; d.cfg.Queues > MaxBlockQueues || n < 4 || n > 1024 || n&(n-1) != 0 {
		d.Close()
		return nil, fmt.Errorf("%s: %d queues of %d entries: up to %d of a power of two from 4 to 1024 are possible",
			cfg.Name, d.cfg.Queues, n, MaxBlockQueues)
	}
	return d, nil
}

// Close ends the connection. The device is not active.
func (d *Block) Close() { d.backend.Close() }

// Backend is who serves the device.
func (d *Block) Backend() *Backend { return d.backend }

// Size is the disk's size in bytes, as the back end last told it.
func (d *Block) Size() uint64 {
	return binary.LittleEndian.Uint64(d.backend.ConfigSpace()[blkCapacity:]) * 512
}

// ReadOnly reports whether the back end takes no writes.
func (d *Block) ReadOnly() bool { return d.backend.Features()&blkReadOnly != 0 }

// changed tells the driver of a back end that has another configuration than the one before.
func (d *Block) changed(connected bool) {
	if env := d.env.Load(); env != nil && connected {
		env.ConfigChanged()
	}
	if d.cfg.Changed != nil {
		d.cfg.Changed(connected)
	}
}

// ID implements virtio.Device.
func (d *Block) ID() virtio.DeviceID { return virtio.IDBlock }

// Features implements virtio.Device.
func (d *Block) Features() uint64 {
	f := d.backend.Features() & blkFeatures
	if d.cfg.Queues == 1 {
		f &^= blkMQ
	}
	return f
}

var _ virtio.PackedServer = (*Block)(nil)

// ServesPacked implements virtio.PackedServer.
func (d *Block) ServesPacked() bool { return d.backend.Features()&virtio.FeatureRingPacked != 0 }

// QueueSizes implements virtio.Device.
func (d *Block) QueueSizes() []uint16 {
	s := make([]uint16, d.cfg.Queues)
	for i := range s {
		s[i] = uint16(d.cfg.QueueSize)
	}
	return s
}

// ReadConfig implements virtio.Device. All is the back end's, but for the number of queues.
func (d *Block) ReadConfig(offset int, p []byte) {
	space := bytes.Clone(d.backend.ConfigSpace())
	binary.LittleEndian.PutUint16(space[blkNumQueues:], uint16(d.cfg.Queues))
	clear(p)
	if offset >= 0 && offset < len(space) {
		copy(p, space[offset:])
	}
}

// WriteConfig implements virtio.Device: the driver may switch between write-back and write-through (virtio 1.2, 5.2.5.1).
func (d *Block) WriteConfig(offset int, p []byte) {
	if offset == blkWriteback && len(p) == 1 && p[0] <= 1 {
		d.backend.WriteConfig(offset, p)
	}
}

// Activate implements virtio.Device.
func (d *Block) Activate(env *virtio.Env) error {
	d.env.Store(env)
	return d.start(env)
}

func (d *Block) start(env *virtio.Env) error {
	return d.backend.Start(Setup{Memory: env.Memory, Features: env.Features, Queues: env.Queues, Enabled: len(env.Queues), Lost: env.Fail})
}

// Reset implements virtio.Device.
func (d *Block) Reset() {
	d.env.Store(nil)
	d.backend.Forget()
}

// Quiesce implements virtio.Device. The back end completes what is in flight before it says where it stands.
func (d *Block) Quiesce() { d.backend.Stop() }

// Resume implements virtio.Device.
func (d *Block) Resume() {
	if env := d.env.Load(); env != nil {
		if err := d.start(env); err != nil {
			env.Fail(err)
		}
	}
}

// blockState is what Save writes.
type blockState struct {
	Version int    `json:"version"`
	Size    uint64 `json:"size"` // bytes
}

const blockStateVersion = 1

// Save implements virtio.Device.
func (d *Block) Save() ([]byte, error) {
	return json.Marshal(blockState{blockStateVersion, d.Size()})
}

// Restore implements virtio.Device. The back end is another one, and must have the same disk.
func (d *Block) Restore(b []byte) error {
	var s blockState
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s: read saved state: %w", d.cfg.Name, err)
	}
	if s.Version != blockStateVersion {
		return fmt.Errorf("%s: saved state has version %d, this engine reads %d", d.cfg.Name, s.Version, blockStateVersion)
	}
	if s.Size != d.Size() {
		return fmt.Errorf("%s: the guest knows %d bytes, the back end has %d", d.cfg.Name, s.Size, d.Size())
	}
	return nil
}
