package net

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/vhost"
	"virtd/hypervisor/virtio"
)

// kernelPair is the part of vhost.Net that the device uses; tests have their own.
type kernelPair interface {
	Features() uint64
	Start(vhost.Setup) error
	Stop() error
	StartLog(*memory.Memory) error
	CollectLog()
	StopLog() error
	Close() error
}

// Names of who moves packets, as libvirt has them for <driver name=>. A vhost-user back end has none.
const (
	BackendKernel = "vhost"
	BackendEngine = "qemu"
)

// Backend tells who moves the packets while the link is up, and when that is not who was asked for, why. Safe for concurrent
// use.
func (d *Device) Backend() (name string, refused error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.backendName(), d.refused
}

func (d *Device) backendName() string {
	switch {
	case d.user != nil:
		return ""
	case len(d.cfg.Vhosts) == 0 || d.refused != nil:
		return BackendEngine
	}
	return BackendKernel
}

// setRefused notes whether the kernel takes the rings. The caller holds mu, or nobody else has the device.
func (d *Device) setRefused(err error) {
	was := d.refused
	if d.refused = err; err != nil {
		d.cfg.Log("%s: %v; packets go through the engine instead", d.cfg.ID, err)
	}
	if (was == nil) != (err == nil) && d.cfg.BackendChanged != nil {
		d.cfg.BackendChanged(d.backendName(), err)
	}
}

// openVhost takes the vhost descriptors. When the kernel does not play along the device works without, and says so.
func (d *Device) openVhost() {
	for i, fd := range d.cfg.Vhosts {
		n, err := vhost.Open(fd)
		if err != nil {
			d.setRefused(fmt.Errorf("queue pair %d: %w", i, err))
			d.closeVhost()
			for _, fd := range d.cfg.Vhosts[i:] {
				unix.Close(fd)
			}
			return
		}
		d.vhosts = append(d.vhosts, n)
	}
}

func (d *Device) closeVhost() {
	for _, n := range d.vhosts {
		_ = n.Close()
	}
	d.vhosts = nil
}

// kernelBackend is the backend in the kernel.
type kernelBackend struct {
	dev     *Device
	started []kernelPair
}

// startVhost hands all pairs that the driver has to the kernel.
func (d *Device) startVhost() (*kernelBackend, error) {
	k := &kernelBackend{dev: d}
	for i, n := range d.vhosts {
		rx, tx := d.pairQueues(i)
		if rx == nil && tx == nil {
			continue
		}
		fail := d.env.Fail
		err := n.Start(vhost.Setup{
			Memory: d.env.Memory, Features: d.env.Features, RX: rx, TX: tx, Tap: d.taps[i].fd,
			Broken: func(err error) { fail(fmt.Errorf("queue pair %d: %w", i, err)) },
		})
		if err != nil {
			k.stop()
			return nil, fmt.Errorf("queue pair %d: %w", i, err)
		}
		k.started = append(k.started, n)
	}
	return k, nil
}

func (k *kernelBackend) stop() {
	for _, n := range k.started {
		if err := n.Stop(); err != nil {
			k.dev.cfg.Log("%s: %v", k.dev.cfg.ID, err)
		}
	}
}

// poke has nothing to do: the kernel watches its tap itself.
func (k *kernelBackend) poke(int) {}

// startData chooses who moves packets. While the link is down it is the workers, which drop them.
func (d *Device) startData() error {
	if d.user != nil {
		var err error
		d.data, err = d.startUser()
		return err
	}
	if len(d.vhosts) > 0 && d.linkUp() {
		k, err := d.startVhost()
		if err == nil {
			d.data = k
			d.setRefused(nil)
			return nil
		}
		d.setRefused(err)
	}
	ts, err := d.startThreads()
	if err != nil {
		return err
	}
	d.data = ts
	return nil
}

// LogDirty makes the kernel record the pages it writes for guest memory's dirty log, or ends that; SyncDirty passes the
// record on. Workers need neither.
func (d *Device) LogDirty(mem *memory.Memory, on bool) error {
	var errs []error
	for i, n := range d.vhosts {
		var err error
		if on {
			err = n.StartLog(mem)
		} else {
			err = n.StopLog()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("queue pair %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// SyncDirty passes the pages that the kernel wrote since the last call to guest memory's dirty log.
func (d *Device) SyncDirty() {
	for _, n := range d.vhosts {
		n.CollectLog()
	}
}

// vhostFeatures takes away what the kernel cannot do with the rings.
func (d *Device) vhostFeatures(f uint64) uint64 {
	for _, n := range d.vhosts {
		f &= n.Features() | ^(vhost.RingFeatures &^ virtio.FeatureVersion1)
	}
	return f
}
