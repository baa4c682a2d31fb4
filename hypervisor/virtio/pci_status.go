package virtio

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Device status bits (virtio 1.2, 2.1).
const (
	StatusAcknowledge uint8 = 1
	StatusDriver      uint8 = 2
	StatusDriverOK    uint8 = 4
	StatusFeaturesOK  uint8 = 8
	StatusNeedsReset  uint8 = 64
	StatusFailed      uint8 = 128
)

// statusByte is what the driver reads. The caller holds mu.
func (t *PCI) statusByte() uint8 {
	if t.needsReset.Load() {
		return t.status | StatusNeedsReset
	}
	return t.status
}

// writeStatus is the driver's step through initialization (3.1.1). A step out of order, a bit taken back and bits that
// do not exist change nothing; zero resets. The caller holds mu.
func (t *PCI) writeStatus(v uint8) {
	if v == 0 {
		t.reset()
		return
	}
	v &^= StatusNeedsReset // the device's own
	const known = StatusAcknowledge | StatusDriver | StatusDriverOK | StatusFeaturesOK | StatusFailed
	ordered := (v&StatusDriver == 0 || v&StatusAcknowledge != 0) &&
		(v&StatusFeaturesOK == 0 || v&StatusDriver != 0) &&
		(v&StatusDriverOK == 0 || v&StatusFeaturesOK != 0)
	if v&^known != 0 || t.status&^v != 0 || !ordered {
		return
	}
	if added := v &^ t.status; added&StatusFeaturesOK != 0 {
		if t.accepted&^t.features != 0 || t.must&^t.accepted != 0 {
			v &^= StatusFeaturesOK | StatusDriverOK // the driver reads it back and gives up
		}
	}
	start := v&^t.status&StatusDriverOK != 0
	t.status = v
	if start && v&StatusFailed == 0 {
		t.driverOK.Store(true)
		if err := t.activate(nil); err != nil {
			t.fail(err)
		}
	}
}

// life is one activation. Calls of an Env that outlived its device's Reset find a life that ended.
type life struct{ ended atomic.Bool }

// activate makes the queues and starts the device. bases continues queues at saved positions. The caller holds mu.
func (t *PCI) activate(bases []uint32) error {
	queues := make([]*Queue, len(t.queues))
	if !t.msix.Enabled() {
		if err := t.startPump(); err != nil {
			return err
		}
	}
	for i := range t.queues {
		r := &t.queues[i]
		if !r.enabled {
			continue
		}
		drain(t.kicks[i])
		q, err := NewQueue(t.cfg.Memory, QueueConfig{
			Index: i, Size: r.size, Desc: r.desc, Avail: r.driver, Used: r.used, Features: t.accepted,
			KickFD: t.kicks[i], CallFD: r.vector.fd(), Interrupt: queueInterrupt{&r.vector},
		})
		if err != nil {
			t.stopPump()
			return err
		}
		if bases != nil {
			q.SetBase(bases[i])
		}
		queues[i] = q
	}
	l := &life{}
	env := &Env{
		Memory: t.cfg.Memory, Features: t.accepted, Queues: queues,
		ConfigChanged: func() {
			if !l.ended.Load() {
				t.configChanged()
			}
		},
		Fail: func(err error) {
			if !l.ended.Load() {
				t.fail(err)
			}
		},
	}
	if err := t.dev.Activate(env); err != nil {
		l.ended.Store(true)
		t.stopPump()
		return err
	}
	t.envLife, t.active, t.running = l, queues, true
	for i := range t.queues {
		t.queues[i].live.Store(queues[i] != nil)
	}
	t.bindDoorbells()
	return nil
}

func drain(fd int) {
	var b [8]byte
	unix.Read(fd, b[:])
}

// Reset is a device reset by the machine: as the driver's write of zero to the status.
func (t *PCI) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reset()
}

// reset stops the device and puts all registers back (2.4). The caller holds mu.
func (t *PCI) reset() {
	for i := range t.queues {
		t.queues[i].live.Store(false)
	}
	t.unbindDoorbells()
	t.driverOK.Store(false)
	if t.running {
		t.envLife.ended.Store(true)
		t.dev.Reset()
	}
	t.running, t.quiesced, t.deferred, t.active = false, false, false, nil
	t.stopPump()
	t.needsReset.Store(false)
	t.isr.clear()
	t.generation.Store(0)
	t.clearRegisters()
}

func (t *PCI) clearRegisters() {
	t.status, t.accepted, t.devSelect, t.drvSelect, t.queueSel = 0, 0, 0, 0, 0
	t.config.set(noVector)
	for i := range t.queues {
		q := &t.queues[i]
		q.size, q.enabled, q.desc, q.driver, q.used = q.max, false, 0, 0, 0
		q.vector.set(noVector)
	}
}

// fail sets DEVICE_NEEDS_RESET, once, and tells a driver that is running (2.1.1). It takes no lock: device threads call it.
func (t *PCI) fail(err error) {
	if t.needsReset.Swap(true) {
		return
	}
	t.cfg.Logf("%s: device needs reset: %v", t.cfg.Name, err)
	t.configChanged()
}

// configChanged counts the generation up and interrupts.
func (t *PCI) configChanged() {
	t.generation.Add(1)
	if t.driverOK.Load() {
		t.config.signal(isrConfig)
	}
}

// Quiesce stops the device and keeps everything, so that Resume goes on. The vCPUs must be stopped.
func (t *PCI) Quiesce() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running && !t.quiesced {
		t.dev.Quiesce()
	}
	t.quiesced = true
}

// Resume undoes Quiesce, and starts a device that Restore brought.
func (t *PCI) Resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.quiesced {
		return
	}
	t.quiesced = false
	switch {
	case t.deferred:
		t.deferred = false
		if t.needsReset.Load() && t.accepted&FeatureRingPacked != 0 {
			return // where its packed rings stand may not be known
		}
		if err := t.activate(t.bases); err != nil {
			t.fail(fmt.Errorf("start after restore: %w", err))
		}
	case t.running:
		t.dev.Resume()
	}
}
