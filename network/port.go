package network

import (
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
)

// Port is one interface on a network: of a running domain, or one that a client made. It is immutable.
type Port struct {
	UUID     uuid.UUID `json:"uuid"`
	Network  uuid.UUID `json:"network"`
	Owner    Owner     `json:"owner"`
	Client   bool      `json:"client,omitempty"` // a client made it, plugs it itself, and removes it
	MAC      string    `json:"mac"`
	Group    string    `json:"group,omitempty"` // portgroup
	Bridge   string    `json:"bridge"`
	Isolated bool      `json:"isolated,omitempty"` // it does not reach other isolated ports
	Own      bool      `json:"own,omitempty"`      // the bridge is the network's
	Dev      string    `json:"dev,omitempty"`      // in a pool of links: the one that the port is on
	Mode     string    `json:"mode,omitempty"`     // with Dev: how macvtaps on it reach each other
	Trust    bool      `json:"trust,omitempty"`    // the macvtap follows the guest's receive filter
	Tap      string    `json:"tap,omitempty"`      // the host's end, once the domain has it
	Function string    `json:"function,omitempty"` // in a pool of virtual functions: the one that the port is, 0000:01:10.0
	Managed  bool      `json:"managed,omitempty"`  // with Function: it is taken from its driver for the domain, and given back

	VLAN   portconf.VLAN      `json:"vlan"`
	Limits portconf.Bandwidth `json:"limits"`
	Class  uint16             `json:"class,omitempty"` // of the bridge, for a floor
}

// Owner is the domain that a port belongs to. That of a client's port is what the client says, and may be none of virtd's.
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
	VLAN     portconf.VLAN
	Limits   portconf.Bandwidth

	wish *wish // of a client's port
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
	return m.attach(n, req)
}

// attach makes a port where its network has room for it.
func (m *Manager) attach(n *Network, req Request) (*Port, error) {
	if n.ofFunctions() {
		return m.connectFunction(n, req)
	}
	devs, err := m.pool(n)
	if err == nil {
		devs, err = req.wish.linksOf(n, devs)
	}
	if err != nil {
		return nil, err
	}
	p, err := n.connect(req, placement{links: devs})
	if err != nil || p.Limits.In.Floor == 0 {
		return p, err
	}
	if err := n.reshape(); err != nil {
		return nil, errors.Join(err, m.Disconnect(p.UUID))
	}
	return p, nil
}

// ofFunctions reports whether the network is a pool of virtual functions.
func (n *Network) ofFunctions() bool {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	return n.def.functions()
}

// placement is where a port of a pool can be: on one of some links, or a function.
type placement struct {
	links    []string
	function string
}

// connect puts a port on record, in a pool at the given place.
func (n *Network) connect(req Request, at placement) (*Port, error) {
	m := n.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := n.mustBeActive(); err != nil {
		return nil, err
	}
	p := &Port{
		UUID: uuid.New(), Network: n.id, Owner: req.Owner, MAC: req.MAC, Bridge: n.def.bridge,
		Isolated: req.Isolated || n.def.isolate, Own: n.def.ownsBridge(),
	}
	if err := req.wish.name(m, p); err != nil {
		return nil, err
	}
	if err := n.def.settle(p, req); err != nil {
		return nil, err
	}
	if n.def.functions() != (at.function != "") {
		return nil, failure(virterr.OperationInvalid, "network '%s' was changed at this moment; try again", n.def.name)
	}
	var err error
	switch {
	case at.function != "":
		err = n.placeFunction(p, req, at.function)
	case n.def.direct():
		err = n.placePort(p, at.links) // of whose links the kernel keeps addresses apart
	default:
		err = n.addressFree(p)
	}
	if err == nil {
		err = req.wish.fit(n, p)
	}
	if err != nil {
		return nil, err
	}
	if err := n.reserve(p); err != nil {
		return nil, err
	}
	if err := m.records.savePort(p); err != nil {
		return nil, err
	}
	m.ports[p.UUID] = p
	return p, nil
}

// holder is who has a port, for errors.
func (p *Port) holder() string {
	if p.Client {
		return "port " + p.UUID.String() + " of '" + p.Owner.Name + "'"
	}
	return "domain '" + p.Owner.Name + "'"
}

// addressFree refuses a port with the address of another domain's on the network's bridge: frames for both would go to whoever spoke
// last. A domain may have reasons to give two of its own the same. The caller holds the manager's mu.
func (n *Network) addressFree(p *Port) error {
	for _, other := range n.portList() {
		if p.MAC != "" && strings.EqualFold(other.MAC, p.MAC) && other.Owner.UUID != p.Owner.UUID {
			return failure(virterr.OperationInvalid, "MAC address %s is in use on network '%s' by %s; give each domain one of its own",
				p.MAC, n.def.name, other.holder())
		}
	}
	return nil
}

// placePort puts a port of a pool on one of devs. The caller holds the manager's mu.
func (n *Network) placePort(p *Port, devs []string) error {
	if p.Isolated {
		return notIsolated(p, plugDirect)
	}
	if p.VLAN.Given() {
		return failure(virterr.ConfigUnsupported, "network '%s' with forward mode='%s' can tag no VLANs: its ports are macvtaps", n.def.name, n.def.forward.mode)
	}
	p.Mode, p.Trust = string(n.def.forward.mode), n.def.trusts(p.Group)
	var err error
	p.Dev, err = n.m.pick(n.def, devs)
	return err
}

// notIsolated refuses a port that is to be isolated and is none of a bridge.
func notIsolated(p *Port, kind string) error {
	return failure(virterr.ConfigUnsupported, "interface %s - <port isolated='yes'/> is not supported for network interfaces with type='%s'", p.MAC, kind)
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
	p := m.ports[id]
	if p == nil {
		m.mu.Unlock()
		return nil
	}
	n, err := m.networks[p.Network], m.dropPort(id)
	m.mu.Unlock()
	if err != nil || n == nil || p.Limits.In.Floor == 0 {
		return err
	}
	return n.reshape()
}

// dropPort takes a port off the records. The manager's lock is held.
func (m *Manager) dropPort(id uuid.UUID) error {
	if err := m.records.forgetPort(id); err != nil {
		return err
	}
	delete(m.ports, id)
	return nil
}

// Retain removes every port of a domain that is not among those in use: their domains ended while virtd was away. Those of
// clients stay.
func (m *Manager) Retain(inUse map[uuid.UUID]bool) {
	m.mu.Lock()
	var gone []uuid.UUID
	for id, p := range m.ports {
		if !inUse[id] && !p.Client {
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
		if c := strings.Compare(a.MAC, b.MAC); c != 0 {
			return c
		}
		return strings.Compare(a.UUID.String(), b.UUID.String())
	})
	return out
}

// Port finds one of the network's ports.
func (n *Network) Port(id uuid.UUID) (*Port, error) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	return n.port(id)
}

// port is Port for callers that hold the manager's lock.
func (n *Network) port(id uuid.UUID) (*Port, error) {
	if p := n.m.ports[id]; p != nil && p.Network == n.id {
		return p, nil
	}
	return nil, failure(virterr.NoNetworkPort, "Network port with UUID %s does not exist", id)
}

// plugKind is the type of the port's <plug>.
func (p *Port) plugKind() string {
	switch {
	case p.Function != "":
		return plugHostdev
	case p.Dev != "":
		return plugDirect
	case p.Own:
		return plugNetwork
	}
	return plugBridge
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
	for _, e := range []*xmltree.Node{p.Limits.Node(), p.VLAN.Node()} {
		if e != nil {
			root.Append(e)
		}
	}
	if p.Isolated {
		root.Append(xmltree.New("port", "isolated", "yes"))
	}
	if p.Trust {
		root.Append(xmltree.New("rxfilters", "trustGuest", "yes"))
	}
	root.Append(p.plugNode())
	return root.String()
}

func (p *Port) plugNode() *xmltree.Node {
	switch kind := p.plugKind(); kind {
	case plugHostdev:
		return p.functionPlug()
	case plugDirect:
		return xmltree.New("plug", "type", kind, "dev", p.Dev, "mode", p.Mode)
	default:
		return xmltree.New("plug", "type", kind, "bridge", p.Bridge)
	}
}
