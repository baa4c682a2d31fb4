package virtio

import (
	"encoding/json"
	"errors"
	"fmt"
)

// pciStateVersion counts up when the meaning of pciState changes.
const pciStateVersion = 1

// pciState is the transport's saved state. What the PCI function keeps (BARs, MSI-X) is the function's to save.
type pciState struct {
	Version      int             `json:"version"`
	Device       DeviceID        `json:"device"`
	Status       uint8           `json:"status"`
	NeedsReset   bool            `json:"needsReset,omitempty"`
	Accepted     uint64          `json:"accepted"`
	DevSelect    uint32          `json:"deviceFeatureSelect"`
	DrvSelect    uint32          `json:"driverFeatureSelect"`
	Generation   uint8           `json:"generation"`
	ConfigVector uint16          `json:"configVector"`
	QueueSelect  uint16          `json:"queueSelect"`
	ISR          uint8           `json:"isr"`
	Running      bool            `json:"running"`
	Queues       []pciQueueState `json:"queues"`
	State        []byte          `json:"state"` // the device's own
}

type pciQueueState struct {
	Size    uint16 `json:"size"`
	Enabled bool   `json:"enabled"`
	Desc    uint64 `json:"desc"`
	Driver  uint64 `json:"driver"`
	Device  uint64 `json:"device"`
	Vector  uint16 `json:"vector"`
	Base    uint32 `json:"base"` // Queue.Base
}

// Save returns the state of transport and device. The transport must be quiesced.
func (t *PCI) Save() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.quiesced {
		return nil, fmt.Errorf("%s: save a device that runs: quiesce it first", t.cfg.Name)
	}
	device, err := t.dev.Save()
	if err != nil {
		return nil, fmt.Errorf("%s: save: %w", t.cfg.Name, err)
	}
	t.isr.mu.Lock()
	isr := t.isr.bits
	t.isr.mu.Unlock()
	s := pciState{
		Version: pciStateVersion, Device: t.dev.ID(), Status: t.status, NeedsReset: t.needsReset.Load(), Accepted: t.accepted,
		DevSelect: t.devSelect, DrvSelect: t.drvSelect, Generation: uint8(t.generation.Load()), ConfigVector: t.config.get(),
		QueueSelect: t.queueSel, ISR: isr, Running: t.running || t.deferred, State: device,
	}
	for i := range t.queues {
		q := &t.queues[i]
		qs := pciQueueState{Size: q.size, Enabled: q.enabled, Desc: q.desc, Driver: q.driver, Device: q.used, Vector: q.vector.get()}
		switch {
		case t.deferred:
			qs.Base = t.bases[i]
		case t.active != nil && t.active[i] != nil:
			qs.Base = t.active[i].Base()
		}
		s.Queues = append(s.Queues, qs)
	}
	return json.Marshal(s)
}

// Restore puts a saved state into a transport whose device was made from the same configuration and has not been used.
// The device starts with Resume. Guest memory must have its contents by then, and the PCI function its state.
func (t *PCI) Restore(state []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s pciState
	err := json.Unmarshal(state, &s)
	if err == nil {
		err = t.checkState(&s)
	}
	if err != nil {
		return fmt.Errorf("%s: restore: %w", t.cfg.Name, err)
	}
	if t.running {
		return fmt.Errorf("%s: restore: the device runs", t.cfg.Name)
	}
	if err := t.dev.Restore(s.State); err != nil {
		return fmt.Errorf("%s: restore: %w", t.cfg.Name, err)
	}
	t.status, t.accepted, t.devSelect, t.drvSelect, t.queueSel = s.Status, s.Accepted, s.DevSelect, s.DrvSelect, s.QueueSelect
	t.needsReset.Store(s.NeedsReset)
	t.generation.Store(uint32(s.Generation))
	t.config.set(s.ConfigVector)
	t.driverOK.Store(s.Status&StatusDriverOK != 0)
	t.bases = make([]uint32, len(s.Queues))
	for i, qs := range s.Queues {
		q := &t.queues[i]
		q.size, q.enabled, q.desc, q.driver, q.used = qs.Size, qs.Enabled, qs.Desc, qs.Driver, qs.Device
		q.vector.set(qs.Vector)
		t.bases[i] = qs.Base
	}
	t.isr.restore(s.ISR)
	t.quiesced, t.deferred = true, s.Running
	return nil
}

// checkState refuses a state that this device could not have saved.
func (t *PCI) checkState(s *pciState) error {
	switch {
	case s.Version != pciStateVersion:
		return fmt.Errorf("state version %d is not %d", s.Version, pciStateVersion)
	case s.Device != t.dev.ID():
		return fmt.Errorf("state is of device type %d, this is %d", s.Device, t.dev.ID())
	case len(s.Queues) != len(t.queues):
		return fmt.Errorf("state has %d queues, this device %d", len(s.Queues), len(t.queues))
	case s.Status&StatusFeaturesOK != 0 && s.Accepted&^t.features != 0:
		return fmt.Errorf("the guest uses features %#x that this device does not have", s.Accepted&^t.features)
	case s.Running && s.Status&StatusDriverOK == 0:
		return errors.New("a running device without DRIVER_OK")
	}
	packed := s.Accepted&FeatureRingPacked != 0
	for i, q := range s.Queues {
		if q.Size > t.queues[i].max || !validSize(q.Size, packed) {
			return fmt.Errorf("queue %d cannot have %d entries", i, q.Size)
		}
		if _, _, _, ok := parseBase(q.Base, q.Size); packed && s.Running && q.Enabled && !ok {
			return fmt.Errorf("queue %d of %d entries cannot be at %#x", i, q.Size, q.Base)
		}
	}
	return nil
}
