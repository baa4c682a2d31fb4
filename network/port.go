package network

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Port is one interface of a running domain on a network. It is immutable.
type Port struct {
	UUID     uuid.UUID `json:"uuid"`
	Network  uuid.UUID `json:"network"`
	Owner    Owner     `json:"owner"`
	MAC      string    `json:"mac"`
	Group    string    `json:"group,omitempty"` // portgroup
	Bridge   string    `json:"bridge"`
	Isolated bool      `json:"isolated,omitempty"` // it does not reach other isolated ports
	Own      bool      `json:"own,omitempty"`      // the bridge is the network's
	Dev      string    `json:"dev,omitempty"`      // in a pool of links: the one that the port is on
	Mode     string    `json:"mode,omitempty"`     // with Dev: how macvtaps on it reach each other
	Trust    bool      `json:"trust,omitempty"`    // the macvtap follows the guest's receive filter
	Tap      string    `json:"tap,omitempty"`      // the host's end, once the domain has it
}

// Owner is the domain that a port belongs to.
type Owner struct {
	Name string    `json:"name"`
	UUID uuid.UUID `json:"uuid"`
}

// Request is what an interface asks of a network.
type Request struct {
	Network  string // its name
	Owner    Owner
	MAC      string
	Group    string // portgroup, "" for the network's default
	Isolated bool   // also where the network does not isolate its ports
}

// Connect makes a port on a network, which it starts where that is inactive.
func (m *Manager) Connect(req Request) (*Port, error) {
	n, err := m.LookupByName(req.Network)
	if err != nil {
		return nil, err
	}
	if !n.Active() {
		if err := n.Start(); err != nil && !n.Active() {
			return nil, failure(virterr.OperationInvalid, "network '%s' is not active, and cannot be started: %w", req.Network, err)
		}
		m.log.Info("a network was started because a domain needs it", "network", req.Network, "domain", req.Owner.Name)
	}
	devs, err := m.pool(n)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := n.mustBeActive(); err != nil {
		return nil, err
	}
	if req.Group != "" && !n.def.hasGroup(req.Group) {
		return nil, failure(virterr.InvalidArg, "network '%s' has no portgroup '%s'", req.Network, req.Group)
	}
	p := &Port{
		UUID: uuid.New(), Network: n.id, Owner: req.Owner, MAC: req.MAC, Group: req.Group, Bridge: n.def.bridge,
		Isolated: req.Isolated || n.def.isolate, Own: n.def.ownsBridge(),
	}
	if n.def.direct() {
		p.Mode, p.Trust, p.Isolated = string(n.def.forward.mode), n.def.trusts(req.Group), false
		if p.Dev, err = m.pick(n.def, devs); err != nil {
			return nil, err
		}
	}
	if err := m.records.savePort(p); err != nil {
		return nil, err
	}
	m.ports[p.UUID] = p
	return p, nil
}

// pool returns the links of a network that is one, as far as the host has them.
func (m *Manager) pool(n *Network) ([]string, error) {
	m.mu.Lock()
	d := n.def
	m.mu.Unlock()
	if !d.direct() {
		return nil, nil
	}
	return m.candidates(d)
}

// Connected notes which tap a port has.
func (m *Manager) Connected(id uuid.UUID, tap string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[id]
	if p == nil {
		return failure(virterr.NoNetworkPort, "Network port with UUID %s does not exist", id)
	}
	now := *p
	now.Tap = tap
	if err := m.records.savePort(&now); err != nil {
		return err
	}
	m.ports[id] = &now
	return nil
}

// movePort notes that a port is on a bridge, and returns the port as it then is, also when it could not be noted.
func (m *Manager) movePort(id uuid.UUID, bridge string) (Port, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[id]
	if p == nil {
		return Port{Bridge: bridge}, nil // its domain ended meanwhile
	}
	now := *p
	if now.Bridge == bridge {
		return now, nil
	}
	now.Bridge = bridge
	m.ports[id] = &now
	return now, m.records.savePort(&now)
}

// Disconnect removes a port. One that is gone is no error.
func (m *Manager) Disconnect(id uuid.UUID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ports[id] == nil {
		return nil
	}
	if err := m.records.forgetPort(id); err != nil {
		return err
	}
	delete(m.ports, id)
	return nil
}

// Retain removes every port that is not among those in use: their domains ended while virtd was away.
func (m *Manager) Retain(inUse map[uuid.UUID]bool) {
	m.mu.Lock()
	var gone []uuid.UUID
	for id := range m.ports {
		if !inUse[id] {
			gone = append(gone, id)
		}
	}
	m.mu.Unlock()
	for _, id := range gone {
		if err := m.Disconnect(id); err != nil {
			m.log.Error("cannot remove the port of a domain that ended", "port", id, "error", err)
		}
	}
}

// Ports returns the network's ports, by owner and address.
func (n *Network) Ports() ([]*Port, error) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if err := n.mustBeActive(); err != nil {
		return nil, err
	}
	return n.portList(), nil
}

// portList is Ports for callers that hold the manager's lock.
func (n *Network) portList() []*Port {
	var out []*Port
	for _, p := range n.m.ports {
		if p.Network == n.id {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *Port) int {
		if c := strings.Compare(a.Owner.Name, b.Owner.Name); c != 0 {
			return c
		}
		return strings.Compare(a.MAC, b.MAC)
	})
	return out
}

// Port finds one of the network's ports.
func (n *Network) Port(id uuid.UUID) (*Port, error) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if p := n.m.ports[id]; p != nil && p.Network == n.id {
		return p, nil
	}
	return nil, failure(virterr.NoNetworkPort, "Network port with UUID %s does not exist", id)
}

// XML prints the port's document.
func (p *Port) XML() string {
	root := xmltree.New("networkport")
	root.Append(xmltree.NewText("uuid", p.UUID.String()))
	owner := root.Append(xmltree.New("owner"))
	owner.Append(xmltree.NewText("name", p.Owner.Name))
	owner.Append(xmltree.NewText("uuid", p.Owner.UUID.String()))
	if p.Group != "" {
		root.Append(xmltree.NewText("group", p.Group))
	}
	root.Append(xmltree.New("mac", "address", p.MAC))
	if p.Isolated {
		root.Append(xmltree.New("port", "isolated", "yes"))
	}
	if p.Trust {
		root.Append(xmltree.New("rxfilters", "trustGuest", "yes"))
	}
	plug := xmltree.New("plug", "type", "bridge", "bridge", p.Bridge)
	switch {
	case p.Dev != "":
		plug = xmltree.New("plug", "type", "direct", "dev", p.Dev, "mode", p.Mode)
	case p.Own:
		plug.SetAttr("type", "network")
	}
	root.Append(plug)
	return root.String()
}

// hasGroup reports whether the network has a portgroup of that name.
func (d *definition) hasGroup(name string) bool {
	for _, g := range d.doc.Root.All("portgroup") {
		if g.Attr("name") == name {
			return true
		}
	}
	return false
}
