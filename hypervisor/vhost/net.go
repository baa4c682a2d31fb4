package vhost

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// RingFeatures are the virtio features that the kernel itself executes; others of a device are between driver and tap.
const RingFeatures = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx | virtio.FeatureVersion1 | virtio.FeatureRingPacked | featureMrgRxbuf

const featureMrgRxbuf uint64 = 1 << 15 // VIRTIO_NET_F_MRG_RXBUF (virtio 1.2, 5.1.3)

// Queues of one Net, as vhost-net numbers them.
const (
	queueRX = 0
	queueTX = 1
)

// Net is one open /dev/vhost-net: one queue pair of a network device. Its methods are safe for concurrent use.
type Net struct {
	drv      driver
	fd       int
	features uint64 // the kernel's

	mu      sync.Mutex
	run     *running
	log     []byte // mapping for the dirty log, nil when it is off
	backend uint64 // backend features of the kernel, for the log only
}

// Setup is what a pair works on.
type Setup struct {
	Memory   *memory.Memory
	Features uint64        // accepted by the driver
	RX, TX   *virtio.Queue // nil where the driver has none
	Tap      int           // tap queue with a vnet header of 12 bytes
	// Broken is called, from another goroutine and at most once, when the kernel finds a ring it cannot use.
	Broken func(error)
}

// running is a started pair.
type running struct {
	Setup
	errors *os.File // eventfd that the kernel signals
	done   chan struct{}
}

// Open takes fd, an open /dev/vhost-net that nobody owned yet, and binds it to this process's address space. Net closes
// it with Close; on error it stays the caller's.
func Open(fd int) (*Net, error) { return open(kernel{}, fd) }

func open(drv driver, fd int) (*Net, error) {
	n := &Net{drv: drv, fd: fd}
	if err := drv.none(fd, reqSetOwner); err != nil {
		hint := ""
		if errors.Is(err, unix.EBUSY) {
			hint = " (another process uses this descriptor)"
		}
		return nil, fmt.Errorf("become owner of vhost-net: %w%s", err, hint)
	}
	if err := drv.word(fd, reqGetFeatures, &n.features); err != nil {
		return nil, fmt.Errorf("read the features of vhost-net: %w", err)
	}
	if n.features&virtio.FeatureVersion1 == 0 {
		return nil, errors.New("the host's vhost-net knows no virtio 1")
	}
	if err := drv.word(fd, reqGetBackendFeatures, &n.backend); err != nil && !errors.Is(err, unix.ENOTTY) {
		return nil, fmt.Errorf("read the backend features of vhost-net: %w", err)
	}
	return n, nil
}

// KernelFeatures returns the features of fd, an open /dev/vhost-net, whether anybody owns it or not.
func KernelFeatures(fd int) (uint64, error) {
	var features uint64
	if err := (kernel{}).word(fd, reqGetFeatures, &features); err != nil {
		return 0, fmt.Errorf("read the features of vhost-net: %w", err)
	}
	return features, nil
}

// Features returns those of RingFeatures that the kernel has.
func (n *Net) Features() uint64 { return n.features & RingFeatures }

// Start hands the queues to the kernel, which goes on at their Base. Nobody else may use them until Stop.
func (n *Net) Start(s Setup) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run != nil {
		return errors.New("vhost-net: started twice")
	}
	r := &running{Setup: s, done: make(chan struct{})}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("vhost-net: make eventfd: %w", err)
	}
	r.errors = os.NewFile(uintptr(fd), "vhost errors")
	if err := n.start(r, fd); err != nil {
		n.unbind(r)
		r.errors.Close()
		return err
	}
	n.run = r
	go r.watch()
	for _, q := range []*virtio.Queue{s.RX, s.TX} { // what came before may have been kicked for already
		if q != nil {
			unix.Write(q.KickFD(), one)
		}
	}
	return nil
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func (n *Net) start(r *running, errorFD int) error {
	if err := n.setFeatures(r); err != nil {
		return err
	}
	regions := r.Memory.Regions()
	if len(regions) > maxRegions {
		return fmt.Errorf("vhost-net: %d regions of RAM, %d are possible", len(regions), maxRegions)
	}
	var table []memoryRegion
	for i := range regions {
		table = append(table, memoryRegion{guest: regions[i].GPA, size: regions[i].Size, user: address(regions[i].Host)})
	}
	if err := n.drv.memTable(n.fd, table); err != nil {
		return fmt.Errorf("vhost-net: set memory table: %w", err)
	}
	for i, q := range []*virtio.Queue{queueRX: r.RX, queueTX: r.TX} {
		if q == nil {
			continue
		}
		if err := n.startQueue(r, uint32(i), q, errorFD); err != nil {
			return fmt.Errorf("vhost-net: queue %d: %w", q.Index(), err)
		}
	}
	return nil
}

func (n *Net) setFeatures(r *running) error {
	f := r.Features & n.Features()
	if n.log != nil {
		f |= featureLogAll
	}
	if err := n.drv.word(n.fd, reqSetFeatures, &f); err != nil {
		return fmt.Errorf("vhost-net: set features %#x: %w", f, err)
	}
	return nil
}

// startQueue sets one ring up and starts it with the tap.
func (n *Net) startQueue(r *running, i uint32, q *virtio.Queue, errorFD int) error {
	if err := n.drv.state(n.fd, reqSetVringNum, &vringState{i, uint32(q.Size())}); err != nil {
		return fmt.Errorf("set size %d: %w", q.Size(), err)
	}
	if err := n.drv.state(n.fd, reqSetVringBase, &vringState{i, q.Base()}); err != nil {
		return fmt.Errorf("set base %d: %w", q.Base(), err)
	}
	if err := n.setAddr(r, i, q); err != nil {
		return err
	}
	for _, f := range []struct {
		req  uint
		fd   int
		what string
	}{
		{reqSetVringErr, errorFD, "error eventfd"},
		{reqSetVringCall, q.CallFD(), "interrupt"},
		{reqSetVringKick, q.KickFD(), "doorbell"},
		{reqNetSetBackend, r.Tap, "tap"},
	} {
		if err := n.drv.file(n.fd, f.req, &vringFile{i, int32(f.fd)}); err != nil {
			return fmt.Errorf("set %s: %w", f.what, err)
		}
	}
	return nil
}

// setAddr tells where the rings are.
func (n *Net) setAddr(r *running, i uint32, q *virtio.Queue) error {
	desc, avail, used := q.Rings()
	a := vringAddr{index: i, logGuest: used}
	if n.log != nil {
		a.flags = vringLogUsed
	}
	for _, part := range []struct {
		gpa uint64
		to  *uint64
	}{{desc, &a.desc}, {avail, &a.avail}, {used, &a.used}} {
		b, err := r.Memory.Slice(part.gpa, 1)
		if err != nil {
			return fmt.Errorf("ring: %w", err)
		}
		*part.to = address(b)
	}
	if err := n.drv.addr(n.fd, &a); err != nil {
		return fmt.Errorf("set ring addresses: %w", err)
	}
	return nil
}

// unbind takes the tap away from both rings: the kernel has finished with guest memory when it returns.
func (n *Net) unbind(r *running) {
	for i, q := range []*virtio.Queue{queueRX: r.RX, queueTX: r.TX} {
		if q != nil {
			_ = n.drv.file(n.fd, reqNetSetBackend, &vringFile{uint32(i), -1})
		}
	}
}

// watch reports a ring that the kernel gave up on.
func (r *running) watch() {
	defer close(r.done)
	var b [8]byte
	if _, err := r.errors.Read(b[:]); err == nil && r.Broken != nil {
		r.Broken(fmt.Errorf("the kernel's vhost-net found a broken ring: %w", virtio.ErrMalformed))
	}
}

// Stop takes the queues back and sets their Base to where the kernel stopped. Stopping what does not run is fine.
func (n *Net) Stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.run
	if r == nil {
		return nil
	}
	n.run = nil
	n.unbind(r)
	var first error
	for i, q := range []*virtio.Queue{queueRX: r.RX, queueTX: r.TX} {
		if q == nil {
			continue
		}
		base := vringState{index: uint32(i)}
		err := n.drv.state(n.fd, reqGetVringBase, &base)
		if err == nil {
			q.SetBase(base.num)
		} else if first == nil {
			first = fmt.Errorf("vhost-net: queue %d: read base: %w", q.Index(), err)
		}
		for _, req := range []uint{reqSetVringKick, reqSetVringCall, reqSetVringErr} {
			_ = n.drv.file(n.fd, req, &vringFile{uint32(i), -1})
		}
	}
	n.collect(r)
	r.errors.Close()
	<-r.done
	return first
}

// Close stops and releases the descriptor.
func (n *Net) Close() error {
	err := n.Stop()
	n.StopLog()
	unix.Close(n.fd)
	return err
}
