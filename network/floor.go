package network

import (
	"errors"
	"net"
	"slices"

	"github.com/google/uuid"

	"virtd/network/bridge"
	"virtd/network/portconf"
	"virtd/virterr"
)

// reserve checks that a network can keep a port's floor free, and gives it a class of the bridge. The manager's lock is held.
func (n *Network) reserve(p *Port) error {
	floor := p.Limits.In.Floor
	if floor == 0 {
		p.Class = 0
		return nil
	}
	whole := n.def.limits.In
	switch {
	case !n.def.ownsBridge():
		return failure(virterr.OperationUnsupported, "Invalid use of 'floor' on interface with MAC address %s - 'floor' is only supported for "+
			"interface type 'network' with forward type 'nat', 'route', 'open' or none", p.MAC)
	case whole.Average == 0:
		return failure(virterr.OperationUnsupported, "Invalid use of 'floor' on interface with MAC address %s - network '%s' has no inbound QoS set", p.MAC, n.def.name)
	}
	sum := floor
	taken := map[uint16]bool{}
	for _, other := range n.portList() {
		if other.UUID != p.UUID && other.Limits.In.Floor > 0 {
			sum += other.Limits.In.Floor
			taken[other.Class] = true
		}
	}
	what, limit := "average", whole.Average
	if whole.Peak > 0 {
		what, limit = "peak", whole.Peak
	}
	if sum > limit {
		return failure(virterr.OperationInvalid, "Cannot plug '%s' interface into '%s' because new combined inbound floor=%d would overcommit %s=%d on network '%s'",
			p.MAC, n.def.bridge, sum, what, limit, n.def.name)
	}
	if p.Class != 0 && !taken[p.Class] {
		return nil
	}
	for p.Class = bridge.FirstFloorClass; taken[p.Class]; p.Class++ {
	}
	return nil
}

// floors returns the floors of a network's ports; the manager's lock is held.
func (n *Network) floors() []bridge.Floor {
	var out []bridge.Floor
	for _, p := range n.portList() {
		mac, err := net.ParseMAC(p.MAC)
		if p.Limits.In.Floor > 0 && p.Class != 0 && err == nil {
			out = append(out, bridge.Floor{Class: p.Class, MAC: mac, Rate: p.Limits.In.Floor})
		}
	}
	slices.SortFunc(out, func(a, b bridge.Floor) int { return int(a.Class) - int(b.Class) })
	return out
}

// shape makes the bridge's rates what the network and its ports say. The caller holds change, or nobody else has the manager.
func (n *Network) shape(s Spec) error {
	n.m.mu.Lock()
	floors := n.floors()
	n.m.mu.Unlock()
	if s.Limits == (portconf.Bandwidth{}) {
		return nil
	}
	return n.m.cfg.Host.Shape(s, floors)
}

// reshape is shape for a network that runs.
func (n *Network) reshape() error {
	n.m.change.Lock()
	defer n.m.change.Unlock()
	n.m.mu.Lock()
	active, s := n.active, n.def.spec()
	n.m.mu.Unlock()
	if !active {
		return nil
	}
	return n.shape(s)
}

// Limit gives a port other rates. Those of its tap or macvtap are for whoever has it to set. When the bridge does not take them, the port
// has what it had.
func (m *Manager) Limit(id uuid.UUID, b portconf.Bandwidth) error {
	n, had, err := m.limit(id, b)
	if err != nil || n == nil {
		return err
	}
	if err := n.reshape(); err != nil {
		_, _, back := m.limit(id, had)
		return errors.Join(err, back)
	}
	return nil
}

// limit notes the rates, and returns those that the port had, and the network whose bridge has to change, or nil.
func (m *Manager) limit(id uuid.UUID, b portconf.Bandwidth) (n *Network, had portconf.Bandwidth, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[id]
	if p == nil {
		return nil, had, failure(virterr.NoNetworkPort, "Network port with UUID %s does not exist", id)
	}
	if b.Limited() && p.plugKind() == plugHostdev {
		return nil, had, failure(virterr.ConfigUnsupported, "bandwidth settings are not supported for port %s: its plug is of type '%s'", id, p.plugKind())
	}
	now := *p
	now.Limits = b
	n = m.networks[p.Network]
	if n != nil {
		if err := n.reserve(&now); err != nil {
			return nil, had, err
		}
	}
	if err := m.records.savePort(&now); err != nil {
		return nil, had, err
	}
	m.ports[id] = &now
	if p.Limits.In.Floor == b.In.Floor {
		return nil, p.Limits, nil
	}
	return n, p.Limits, nil
}
