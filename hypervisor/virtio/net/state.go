package net

import (
	"encoding/json"
	"fmt"

	"virtd/hypervisor/virtio/net/rss"
)

// state is what Save writes. Queue positions are the transport's to save: a quiesced queue knows its own.
type state struct {
	Version  int         `json:"version"`
	MAC      [6]byte     `json:"mac"`
	Pairs    int         `json:"pairs"`
	Offloads *uint64     `json:"offloads,omitempty"` // guest features in force; nil when no driver was active
	RSS      *rss.Config `json:"rss,omitempty"`      // nil when the kernel chooses queues by itself
	Hash     *rss.Hash   `json:"hash,omitempty"`     // nil when no hashes are reported; since version 2
	LinkDown bool        `json:"linkDown,omitempty"`
	Filter   *Filter     `json:"filter,omitempty"` // nil of engines that did not keep it: everything
}

// Versions of the state. An engine that does not know hash reports would go on without them, so it is not to read the second,
// which is written where there are some.
const (
	stateVersion     = 1
	hashStateVersion = 2
)

// Save implements virtio.Device.
func (d *Device) Save() ([]byte, error) {
	filter := d.RxFilter()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := state{Filter: &filter, Version: stateVersion, MAC: d.mac, Pairs: int(d.pairs.Load()), LinkDown: d.linkDown.Load()}
	s.RSS = d.rss.config
	if h := d.hasher.Load(); h != nil {
		hash := h.Hash()
		s.Hash, s.Version = &hash, hashStateVersion
	}
	if d.env != nil || d.restored {
		s.Offloads = &d.offloads
	}
	return json.Marshal(s)
}

// Restore implements virtio.Device.
func (d *Device) Restore(data []byte) error {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s: read saved state: %w", d.cfg.ID, err)
	}
	if s.Version < stateVersion || s.Version > hashStateVersion {
		return fmt.Errorf("%s: saved state has version %d, this engine reads %d to %d", d.cfg.ID, s.Version, stateVersion, hashStateVersion)
	}
	if s.Pairs < 1 || s.Pairs > len(d.taps) {
		return fmt.Errorf("%s: saved state uses %d queue pairs, the device has %d", d.cfg.ID, s.Pairs, len(d.taps))
	}
	if s.RSS != nil {
		if d.cfg.Steering == nil {
			return fmt.Errorf("%s: saved state has receive-side scaling, the device has none", d.cfg.ID)
		}
		if err := s.RSS.Check(len(d.taps)); err != nil {
			return fmt.Errorf("%s: saved state: %w", d.cfg.ID, err)
		}
	}
	if s.Hash != nil {
		if !d.cfg.HashReport {
			return fmt.Errorf("%s: saved state has hash reports, the device has none", d.cfg.ID)
		}
		if err := s.Hash.Check(); err != nil {
			return fmt.Errorf("%s: saved state: %w", d.cfg.ID, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.Hash != nil {
		d.hasher.Store(rss.NewHasher(*s.Hash))
	}
	d.mac, d.rss.config = s.MAC, s.RSS
	if s.Filter != nil {
		d.filter = s.Filter.restore()
	}
	if s.Offloads != nil {
		d.offloads, d.restored = *s.Offloads, true
	}
	d.pairs.Store(int32(s.Pairs))
	d.linkDown.Store(s.LinkDown)
	return nil
}
