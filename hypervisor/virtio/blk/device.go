package blk

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio"
)

// Config describes a disk. Zero values are the defaults in brackets.
type Config struct {
	Name         string // alias, for messages and thread names
	Serial       string // up to 20 bytes
	Queues       int    // [1], up to 16
	QueueSize    int    // entries [256], a power of two from 4 to 1024
	LogicalBlock int    // bytes [512], a power of two from 512 to 4096
	PhysBlock    int    // bytes [LogicalBlock], a power of two from LogicalBlock to 64 KiB
	IO           string // as block.LoopConfig's
	// Logf reports what the administrator should know, such as a slower way of I/O. nil reports nothing.
	Logf func(format string, args ...any)
	// Failed tells that the host refused a request of the guest, once a second at most: a guest repeats what fails. write is
	// false for reads only. It is called by the thread of a queue and must not wait. nil tells nobody.
	Failed func(write bool, reason error)
}

// MaxQueues is the largest number of virtqueues of a disk.
const MaxQueues = 16

// Device is a virtio block device. Stats, Resize, SetThrottle and Image may be called by any goroutine; the rest is the
// transport's.
type Device struct {
	cfg       Config
	img       *block.Image
	serial    [serialSize]byte
	capacity  atomic.Uint64 // sectors
	writeback atomic.Bool
	workers   []*worker
	env       atomic.Pointer[virtio.Env]
	running   bool
	started   time.Time // zero of request times
	logged    pace
	told      pace
}

var _ virtio.Device = (*Device)(nil)

// New makes a disk on img, which it owns from then on, also when it fails. The threads of all queues are made here, before
// the engine confines itself.
func New(img *block.Image, cfg Config) (*Device, error) {
	if err := cfg.complete(); err != nil {
		img.Close()
		return nil, fmt.Errorf("disk %s: %w", cfg.Name, err)
	}
	d := &Device{cfg: cfg, img: img, started: time.Now()}
	copy(d.serial[:], cfg.Serial)
	d.capacity.Store(uint64(img.Size()) / sectorSize)
	d.writeback.Store(startsWriteback(img.Options().Cache))
	for i := range cfg.Queues {
		loop, err := block.NewLoop(img, block.LoopConfig{Name: fmt.Sprintf("%.12s-q%d", cfg.Name, i), Depth: cfg.QueueSize, IO: cfg.IO})
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("disk %s: %w", cfg.Name, err)
		}
		d.workers = append(d.workers, newWorker(d, loop))
	}
	if mode, why := d.workers[0].loop.Mode(); why != nil {
		cfg.Logf("disk %s: uses %s: %v", cfg.Name, mode, why)
	}
	return d, nil
}

func powerOfTwo(n, low, high int) bool { return n >= low && n <= high && n&(n-1) == 0 }

// complete fills defaults in and checks.
func (c *Config) complete() error {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.QueueSize == 0 {
		c.QueueSize = 256
	}
	if c.LogicalBlock == 0 {
		c.LogicalBlock = sectorSize
	}
	if c.PhysBlock == 0 {
		c.PhysBlock = c.LogicalBlock
	}
	if c.Logf == nil {
		c.Logf = func(string, ...any) {}
	}
	if c.Failed == nil {
		c.Failed = func(bool, error) {}
	}
	switch {
	case c.Queues < 1 || c.Queues > MaxQueues:
		return fmt.Errorf("%d queues are not 1 to %d", c.Queues, MaxQueues)
	case !powerOfTwo(c.QueueSize, 4, maxQueueSize):
		return fmt.Errorf("queue size %d is not a power of two from 4 to %d", c.QueueSize, maxQueueSize)
	case !powerOfTwo(c.LogicalBlock, sectorSize, 4096):
		return fmt.Errorf("logical block size %d is not a power of two from 512 to 4096", c.LogicalBlock)
	case !powerOfTwo(c.PhysBlock, c.LogicalBlock, 64<<10):
		return fmt.Errorf("physical block size %d is not a power of two from the logical block size to 65536", c.PhysBlock)
	case len(c.Serial) > serialSize:
		return fmt.Errorf("serial %q is longer than %d bytes", c.Serial, serialSize)
	}
	return nil
}

// Close ends the threads and closes the image. The device must have been reset.
func (d *Device) Close() error {
	for _, w := range d.workers {
		w.loop.Close()
	}
	return d.img.Close()
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDBlock }

// Name returns the alias.
func (d *Device) Name() string { return d.cfg.Name }

// Image returns the image behind the disk.
func (d *Device) Image() *block.Image { return d.img }

// Mode says how requests reach the host: block.ModeUring or block.ModePool.
func (d *Device) Mode() string {
	mode, _ := d.workers[0].loop.Mode()
	return mode
}

// Activate implements virtio.Device.
func (d *Device) Activate(env *virtio.Env) error {
	d.env.Store(env)
	for i, q := range env.Queues {
		d.workers[i].prepare(env, q)
	}
	d.start()
	return nil
}

func (d *Device) start() {
	d.running = true
	for _, w := range d.workers {
		if w.q != nil {
			w.loop.Start(w.q.KickFD(), w.run)
		}
	}
}

func (d *Device) stop(stopLoop func(*block.Loop)) {
	if d.running {
		for _, w := range d.workers {
			stopLoop(w.loop)
		}
	}
	d.running = false
}

// Reset implements virtio.Device. Requests in flight are waited for, because they write to guest memory; those that a
// throttle holds back have never been.
func (d *Device) Reset() {
	d.stop((*block.Loop).Cancel)
	d.env.Store(nil)
	for _, w := range d.workers {
		w.q = nil
	}
	d.writeback.Store(startsWriteback(d.img.Options().Cache))
}

// Quiesce implements virtio.Device.
func (d *Device) Quiesce() { d.stop((*block.Loop).Stop) }

// Resume implements virtio.Device.
func (d *Device) Resume() { d.start() }

// Resize changes the size of image and disk, and tells a running guest. bytes are whole sectors.
func (d *Device) Resize(bytes int64) error {
	if err := d.img.Resize(bytes); err != nil {
		return fmt.Errorf("disk %s: %w", d.cfg.Name, err)
	}
	d.capacity.Store(uint64(bytes) / sectorSize)
	if env := d.env.Load(); env != nil {
		env.ConfigChanged()
	}
	return nil
}

// SetThrottle makes t limit the disk from now on; nil ends all limits. Disks may share one.
func (d *Device) SetThrottle(t *block.Throttle) {
	d.img.SetThrottle(t)
	for _, w := range d.workers {
		w.loop.Wake() // for what waits by the old limits
	}
}

// stateVersion counts up when the meaning of state changes.
const stateVersion = 1

type state struct {
	Version   int    `json:"version"`
	Capacity  uint64 `json:"capacity"` // sectors
	Writeback bool   `json:"writeback"`
}

// Save implements virtio.Device.
func (d *Device) Save() ([]byte, error) {
	return json.Marshal(state{stateVersion, d.capacity.Load(), d.writeback.Load()})
}

// Restore implements virtio.Device.
func (d *Device) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("disk %s: %w", d.cfg.Name, err)
	}
	if s.Version != stateVersion {
		return fmt.Errorf("disk %s: state version %d is not %d", d.cfg.Name, s.Version, stateVersion)
	}
	if s.Capacity != d.capacity.Load() {
		return fmt.Errorf("disk %s: the guest knows %d sectors, the image has %d", d.cfg.Name, s.Capacity, d.capacity.Load())
	}
	d.writeback.Store(s.Writeback)
	return nil
}
