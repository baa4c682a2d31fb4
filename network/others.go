package network

import (
	"errors"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"virtd/network/firewall"
)

// filter replaces the rules of networks, and has the packet filters of others let them through. That these cannot be opened keeps no
// network from running: packets are dropped as without the try. The caller holds change, or nobody else has the manager.
func (m *Manager) filter(list []Spec) error {
	if err := m.cfg.Host.Filter(list); err != nil {
		return err
	}
	m.openOthers(list)
	return nil
}

func (m *Manager) openOthers(list []Spec) {
	if err := m.cfg.Host.OpenOthers(list); err != nil {
		m.log.Error("packet filters of others cannot be opened for networks", "error", err)
	}
}

// OpenOthers has the packet filters of others let the active networks through, where the host is set up so: they may have changed.
func (m *Manager) OpenOthers() {
	m.change.Lock()
	defer m.change.Unlock()
	m.openOthers(m.activeSpecs(uuid.Nil))
}

// OpenOthers implements Host. Where nothing is to be opened, what another setting left is closed, and what will be in the way is
// said in the log, once.
func (l *Local) OpenOthers(list []Spec) error {
	var bridges []string
	zones := map[string]string{}
	if l.Open {
		for _, n := range filtered(list) {
			bridges = append(bridges, n.Bridge)
			zones[n.Bridge] = ""
		}
		for _, s := range list {
			if s.Zone != "" { // also of a network that is not filtered otherwise
				zones[s.Bridge] = s.Zone
			}
		}
	}
	done, err := l.Tables.Open(bridges)
	if !l.Open && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
		err = nil // who cannot look has never opened anything
	}
	asked := false
	if l.Zones != nil {
		put, running, zerr := l.Zones.Apply(zones)
		done, asked, err = append(done, put...), running && l.Open, errors.Join(err, zerr)
	}
	for _, what := range done {
		l.Log.Info("a packet filter of somebody else was changed for networks", "change", what)
	}
	if len(filtered(list)) > 0 {
		l.tellObstacles(asked)
	}
	return err
}

// tellObstacles says in the log what is in the way of networks. asked is whether firewalld knows their bridges.
func (l *Local) tellObstacles(asked bool) {
	obstacles, err := firewall.Obstacles()
	if err != nil {
		l.Log.Warn("cannot tell whether other packet filters are in the way of networks", "error", err)
	}
	for _, o := range obstacles {
		if asked && o.Firewalld() {
			continue
		}
		if _, said := l.told.LoadOrStore(o, true); !said {
			l.Log.Warn("another packet filter is in the way of networks", "problem", o.String())
		}
	}
}
