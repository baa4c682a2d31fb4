package net

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/vhostuser"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/net/rss"
)

// Device is a virtio network device. It implements virtio.Device; Stats and SetLink are safe at any time from any
// goroutine.
type Device struct {
	cfg      Config
	features uint64 // offered
	taps     []tap
	counters []counters
	vhosts   []kernelPair // one for each pair, or none
	user     *vhostuser.Backend

	linkDown atomic.Bool // SetLink's word
	tapLost  atomic.Bool // the host's tap was deleted, or the process that moves the packets is gone
	pairs    atomic.Int32

	// The transport's calls come one at a time; mu orders them with the control queue and SetLink.
	mu     sync.Mutex
	mac    [6]byte
	filter filter
	// filterAsked: the host has asked for the filter since it was last told of a change.
	filterAsked bool
	offloads    uint64 // guest features now in force at the tap
	rss         scaling
	hasher      atomic.Pointer[rss.Hasher] // written under mu; nil: no hashes
	restored    bool                       // offloads comes from a saved state, not from the features
	refused     error                      // why packets go through the engine though vhost was asked for
	env         *virtio.Env
	data        backend
	control     *control
}

// backend moves the packets of an active device: threads with workers, or vhost.
type backend interface {
	// stop ends all work; the queues tell where it stood.
	stop()
	// poke tells queue pair i that its tap queue or the link changed.
	poke(i int)
}

var (
	_ virtio.Device       = (*Device)(nil)
	_ virtio.PackedServer = (*Device)(nil)
)

// New checks cfg against the host and makes the device. On error the descriptors stay the caller's, but for those of a
// vhost-user back end, which are closed.
func New(cfg Config) (*Device, error) {
	if err := cfg.check(); err != nil {
		if cfg.User != nil {
			closeUser(cfg.User)
		}
		return nil, fmt.Errorf("%s: %w", cfg.ID, err)
	}
	for _, fd := range cfg.Taps {
		t := tap{fd: fd}
		if err := t.open(); err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.ID, err)
		}
	}
	var ops tapOps = kernelTap{}
	if cfg.Streams {
		if err := checkStream(cfg.Stream); err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.ID, err)
		}
		ops = noTap{}
	}
	if cfg.User != nil {
		ops = userTap{}
	}
	d, err := newDevice(cfg, ops)
	if err != nil {
		return nil, err
	}
	if cfg.User != nil {
		if err := d.openUser(); err != nil {
			return nil, err
		}
		return d, nil
	}
	d.openVhost()
	d.features = d.vhostFeatures(d.features)
	return d, nil
}

// newDevice is New after the taps are known to be taps.
func newDevice(cfg Config, ops tapOps) (*Device, error) {
	d := &Device{cfg: cfg, mac: cfg.MAC, filter: newFilter(), filterAsked: true}
	if d.cfg.cpus == 0 {
		d.cfg.cpus = runtime.NumCPU()
	}
	if d.cfg.Log == nil {
		d.cfg.Log = func(string, ...any) {}
	}
	if cfg.Streams {
		d.taps = append(d.taps, tap{fd: cfg.Stream, ops: ops, stream: newStream(cfg.Stream), header: headerSize})
	}
	if cfg.User != nil {
		d.taps = make([]tap, cfg.User.Pairs)
		for i := range d.taps {
			d.taps[i] = tap{fd: -1, ops: ops, header: headerSize}
		}
	}
	for _, fd := range cfg.Taps {
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, fmt.Errorf("%s: make tap non-blocking: %w", cfg.ID, err)
		}
		d.taps = append(d.taps, tap{fd: fd, multi: len(cfg.Taps) > 1, ops: ops, header: headerSize})
	}
	d.counters = make([]counters, len(d.taps))
	d.features = offer(&d.cfg, d.taps[0].probeOffloads())
	d.pairs.Store(1)
	d.linkDown.Store(cfg.LinkDown)
	if err := d.openSteering(); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.ID, err)
	}
	return d, nil
}

// Close releases the descriptors. The device is not active.
func (d *Device) Close() {
	d.closeVhost()
	d.closeSteering()
	if d.user != nil {
		d.user.Close()
		return
	}
	for i := range d.taps {
		unix.Close(d.taps[i].fd)
	}
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDNet }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return d.features }

// ServesPacked implements virtio.PackedServer.
func (d *Device) ServesPacked() bool {
	if d.user != nil && d.user.Features()&virtio.FeatureRingPacked == 0 {
		return false
	}
	for _, n := range d.vhosts {
		if n.Features()&virtio.FeatureRingPacked == 0 {
			return false
		}
	}
	return true
}

// QueueSizes implements virtio.Device: receive and transmit queues take turns, the control queue is last (virtio 1.2,
// 5.1.2).
func (d *Device) QueueSizes() []uint16 {
	var sizes []uint16
	for range d.taps {
		sizes = append(sizes, uint16(d.cfg.RxQueueSize), uint16(d.cfg.TxQueueSize))
	}
	return append(sizes, controlQueueSize)
}

// controlIndex is the virtqueue index of the control queue: a driver without MQ and RSS finds it after the first pair.
func (d *Device) controlIndex(features uint64) int {
	if features&(featureMQ|featureRSS) == 0 {
		return 2
	}
	return 2 * len(d.taps)
}

// Activate implements virtio.Device.
func (d *Device) Activate(env *virtio.Env) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = env
	if !d.restored {
		d.offloads = env.Features & guestFeatures(^uint(0))
	}
	d.restored = false
	if err := d.taps[0].setOffloads(tunOffloads(d.offloads)); err != nil && d.offloads != 0 {
		return fmt.Errorf("%s: %w", d.cfg.ID, err)
	}
	if err := d.setHeaders(); err != nil {
		return fmt.Errorf("%s: %w", d.cfg.ID, err)
	}
	d.steer(int(d.pairs.Load()))
	if d.rss.config != nil {
		if err := d.steerBy(d.rss.config); err != nil {
			return fmt.Errorf("%s: %w", d.cfg.ID, err)
		}
	}
	return d.start()
}

// start runs the queues of env.
func (d *Device) start() error {
	if err := d.startData(); err != nil {
		return err
	}
	if i := d.controlIndex(d.env.Features); d.env.Features&featureCtrlVQ != 0 && i < len(d.env.Queues) && d.env.Queues[i] != nil {
		var err error
		if d.control, err = d.startControl(d.env.Queues[i]); err != nil {
			d.data.stop()
			d.data = nil
			return err
		}
	}
	return nil
}

// pairQueues returns the virtqueues of pair i, nil where the driver has none. Without MQ and RSS there is one pair, and index 2
// is the control queue.
func (d *Device) pairQueues(i int) (rx, tx *virtio.Queue) {
	if i > 0 && d.env.Features&(featureMQ|featureRSS) == 0 {
		return nil, nil
	}
	if 2*i < len(d.env.Queues) {
		rx = d.env.Queues[2*i]
	}
	if 2*i+1 < len(d.env.Queues) {
		tx = d.env.Queues[2*i+1]
	}
	return rx, tx
}

// threads is the backend in the engine.
type threads []*thread

func (d *Device) startThreads() (threads, error) {
	var ws []*worker
	for i := range d.taps {
		if rx, tx := d.pairQueues(i); rx != nil || tx != nil {
			ws = append(ws, d.newWorker(i, rx, tx))
		}
	}
	var ts threads
	for ws := range slices.Chunk(ws, pairsPerThread(len(ws), d.cfg.cpus)) {
		t, err := newThread(ws)
		if err != nil {
			for _, t := range ts {
				t.close()
			}
			return nil, err
		}
		ts = append(ts, t)
	}
	for _, t := range ts {
		go t.run()
	}
	return ts, nil
}

func (ts threads) stop() {
	for _, t := range ts {
		t.stopping.Store(true)
		t.poke()
	}
	for _, t := range ts {
		<-t.done
		t.close()
	}
}

func (ts threads) poke(i int) {
	for _, t := range ts {
		for _, w := range t.workers {
			if w.index == i {
				w.poke()
			}
		}
	}
}

// halt stops all work and keeps the state. The control queue goes first, as it changes the others. mu is not held while
// it ends, because a command it works on may want it.
func (d *Device) halt() {
	d.mu.Lock()
	c, data := d.control, d.data
	d.control, d.data = nil, nil
	d.mu.Unlock()
	if c != nil {
		c.stop()
	}
	if data != nil {
		data.stop()
	}
}

// Quiesce implements virtio.Device.
func (d *Device) Quiesce() { d.halt() }

// Resume implements virtio.Device.
func (d *Device) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.env == nil || d.data != nil {
		return
	}
	if err := d.start(); err != nil {
		d.env.Fail(err)
	}
}

// Reset implements virtio.Device.
func (d *Device) Reset() {
	d.halt()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = nil
	d.changeFilter(func() { d.mac, d.filter = d.cfg.MAC, newFilter() })
	d.offloads, d.restored = 0, false
	d.hasher.Store(nil)
	if d.user != nil {
		d.user.Forget()
	}
	_ = d.taps[0].setOffloads(0) // the next driver's choice follows at Activate
	d.steerAutomatically()
	d.steer(1)
}

// steer makes n queue pairs the ones that the host's packets go to (virtio 1.2, 5.1.6.5.6).
func (d *Device) steer(n int) {
	d.pairs.Store(int32(n))
	for i := range d.taps {
		if err := d.taps[i].attach(i < n); err != nil {
			d.cfg.Log("%s: switch tap queue %d: %v", d.cfg.ID, i, err)
		}
		if d.data != nil {
			d.data.poke(i)
		}
	}
}

// uses reports whether the driver has pair i in use.
func (d *Device) uses(i int) bool { return i < int(d.pairs.Load()) }

// reportGone tells the administrator and the guest, once, that the tap was deleted under the device, or that the process at
// the other end of a stream is gone.
func (d *Device) reportGone(t *tap) {
	if d.tapLost.Swap(true) {
		return
	}
	switch {
	case t.stream == nil:
		d.cfg.Log("%s: the host deleted the tap device; the link is down until the interface is attached again", d.cfg.ID)
	case t.stream.why != nil:
		d.cfg.Log("%s: %v; the link is down until there is another", d.cfg.ID, t.stream.why)
	default:
		d.cfg.Log("%s: the process behind the interface has ended; the link is down until there is another", d.cfg.ID)
	}
	d.env.ConfigChanged()
}

// checkStream makes sure that a descriptor is a connected stream socket.
func checkStream(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return fmt.Errorf("descriptor %d is no stream socket: %w", fd, errors.Join(err, unix.ENOTSOCK))
	}
	return nil
}

// Reconnect gives the device another stream socket, which is the device's from then on, also when it fails: the process at
// the other end of the first was replaced. Packets on the way are lost.
func (d *Device) Reconnect(fd int) error {
	if d.user != nil {
		return d.user.Replace(fd)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.cfg.Streams {
		unix.Close(fd)
		return fmt.Errorf("%s has a tap and no stream socket", d.cfg.ID)
	}
	if err := checkStream(fd); err != nil {
		unix.Close(fd)
		return err
	}
	running := d.data != nil
	if running {
		d.data.stop()
		d.data = nil
	}
	unix.Close(d.taps[0].fd)
	d.taps[0].fd, d.taps[0].stream = fd, newStream(fd)
	lost := d.tapLost.Swap(false)
	if running {
		if err := d.startData(); err != nil {
			return err
		}
	}
	if lost && d.env != nil {
		d.env.ConfigChanged()
	}
	return nil
}
