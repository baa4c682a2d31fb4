package hypervisor

import (
	"errors"

	"virtd/hypervisor/dirtylog"
	"virtd/hypervisor/dirtyrate"
	"virtd/hypervisor/memory"
	"virtd/hypervisor/monitor"
	"virtd/hypervisor/vhostuser"
	virtionet "virtd/hypervisor/virtio/net"
)

// unrecorded wraps what releases a device: it leaves the record of what is written to guest RAM between its last write and its
// end.
func (m *Machine) unrecorded(id string, release func()) func() {
	return func() {
		m.dirty.Remove(id)
		release()
	}
}

// nicWrites tells what is written to guest RAM for a network device and not by the engine.
func (m *Machine) nicWrites(dev *virtionet.Device) dirtylog.Source {
	if b := dev.UserBackend(); b != nil {
		return &backendWrites{b, m.mem}
	}
	return &vhostWrites{dev, m.mem}
}

// backendWrites is what another process writes that serves a vhost-user device.
type backendWrites struct {
	backend *vhostuser.Backend
	mem     *memory.Memory
}

// StartDirtyLog implements dirtylog.Source.
func (w *backendWrites) StartDirtyLog() error { return w.backend.StartLog(w.mem) }

// StopDirtyLog implements dirtylog.Source.
func (w *backendWrites) StopDirtyLog() error { return w.backend.StopLog() }

// ReadDirty implements dirtylog.Source.
func (w *backendWrites) ReadDirty(gpa, pages uint64, bitmap []uint64) error {
	return w.backend.ReadLog(gpa, pages, bitmap)
}

// vhostWrites is the log of the kernel's vhost-net, which becomes part of guest memory's own.
type vhostWrites struct {
	dev *virtionet.Device
	mem *memory.Memory
}

// StartDirtyLog implements dirtylog.Source.
func (w *vhostWrites) StartDirtyLog() error {
	err := w.dev.LogDirty(w.mem, true)
	if err != nil { // some of the queue pairs may have begun
		err = errors.Join(err, w.dev.LogDirty(w.mem, false))
	}
	return err
}

// StopDirtyLog implements dirtylog.Source.
func (w *vhostWrites) StopDirtyLog() error { return w.dev.LogDirty(w.mem, false) }

// ReadDirty implements dirtylog.Source. A Tracker reads guest memory's log after it asked its sources.
func (w *vhostWrites) ReadDirty(uint64, uint64, []uint64) error {
	w.dev.SyncDirty()
	return nil
}

// hostdevWriter is what errors call the functions of the host, which share one address space and one record.
const hostdevWriter = "passed-through PCI devices"

// StartDirtyRate implements monitor.Machine.
func (c control) StartDirtyRate(r monitor.DirtyRateRequest) error {
	return c.rate.Start(dirtyrate.Request{Mode: dirtyrate.Mode(r.Mode), Period: r.Period, SamplePages: r.SamplePages})
}

// DirtyRate implements monitor.Machine.
func (c control) DirtyRate() monitor.DirtyRate {
	r := c.rate.Result()
	return monitor.DirtyRate{Status: string(r.Status), Mode: string(r.Mode), Start: r.Start, Period: r.Period, SamplePages: r.SamplePages, Rate: r.Rate}
}
