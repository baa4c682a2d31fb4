package network

import (
	"errors"

	"github.com/google/uuid"

	"virtd/virterr"
)

// Repair makes the rules of the active networks again where somebody changed or removed them.
func (m *Manager) Repair() error {
	m.change.Lock()
	defer m.change.Unlock()
	list := m.activeSpecs(uuid.Nil)
	if len(list) == 0 {
		return nil
	}
	if whole, err := m.cfg.Host.Filtered(list); err != nil || whole {
		return err
	}
	m.log.Warn("somebody took rules of networks out of the packet filter; they are made again")
	return m.filter(list)
}

// RepairBridges makes the bridges of active networks again that somebody removed, with the taps of domains on them. Those that
// cannot be made stay active and are tried again when it is called again.
func (m *Manager) RepairBridges() error {
	m.change.Lock()
	defer m.change.Unlock()
	var errs []error
	for _, n := range m.List(ListActive) {
		m.mu.Lock()
		own, s := n.def.ownsBridge(), n.def.spec()
		m.mu.Unlock()
		if !own {
			continue
		}
		there, err := m.cfg.Host.LinkExists(s.Bridge)
		if err == nil && !there {
			m.log.Warn("somebody removed the bridge of an active network; it is made again", "network", s.Name, "bridge", s.Bridge)
			err = m.remake(n, s)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// remake makes a network's bridge, and what depends on it: services listen on one bridge, not on all of that name. The rules of the
// packet filter are by names. The caller holds change.
func (m *Manager) remake(n *Network, s Spec) error {
	err := errors.Join(m.cfg.Host.StopServing(s.UUID), m.cfg.Host.Up(s))
	if err == nil {
		m.replug(n)
		err = errors.Join(n.shape(s), m.cfg.Host.Serve(s))
	}
	if err != nil {
		err = failure(virterr.OperationFailed, "the bridge '%s' of network '%s' was removed and cannot be made again; stop and start the network: %w", s.Bridge, s.Name, err)
	}
	return err
}
