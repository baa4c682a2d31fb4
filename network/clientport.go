package network

import (
	"slices"

	"github.com/google/uuid"

	"virtd/network/portconf"
	"virtd/virterr"
)

// A client may make ports too: it gets a place on the network (a bridge, a link, a virtual function) and a floor that is kept
// free, and connects to that place what it likes. Such a port lives until the client removes it or the network stops.

// PortFlags are virNetworkPortCreateFlags.
type PortFlags uint32

// The flags of CreatePort.
const (
	PortReclaim  PortFlags = 1 << 0 // the document says which place the port has already
	PortValidate PortFlags = 1 << 1 // nothing that the schema wants is made up

	// PortKnown is every flag that libvirt has.
	PortKnown = PortReclaim | PortValidate
)

// CreatePort makes the port of a <networkport> document.
func (n *Network) CreatePort(text string, flags PortFlags) (*Port, error) {
	req, err := parsePort(text, flags&PortValidate != 0)
	if err != nil {
		return nil, err
	}
	n.m.mu.Lock()
	err = n.mustBeActive()
	req.Network = n.def.name
	n.m.mu.Unlock()
	reclaim, plugged := flags&PortReclaim != 0, req.wish.plug.kind != ""
	switch {
	case err != nil:
		return nil, err
	case reclaim && !plugged:
		return nil, failure(virterr.InvalidArg, "Port reclaim requested but plug type is none")
	case plugged && !reclaim:
		return nil, failure(virterr.InvalidArg, "Port reclaim not requested but plug type is not none")
	}
	return n.m.attach(n, req)
}

// DeletePort removes a port that a client made. One of a domain goes with the domain's interface.
func (n *Network) DeletePort(id uuid.UUID) error {
	p, err := n.removeClientPort(id)
	if err != nil || p.Limits.In.Floor == 0 {
		return err
	}
	return n.reshape()
}

func (n *Network) removeClientPort(id uuid.UUID) (*Port, error) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	p, err := n.activePort(id)
	switch {
	case err != nil:
		return nil, err
	case !p.Client:
		return nil, failure(virterr.OperationInvalid, "port %s of network '%s' is in use by domain '%s': it goes when the interface is detached or the domain ends",
			id, n.def.name, p.Owner.Name)
	}
	return p, n.m.dropPort(id)
}

// activePort finds one of the network's ports while the network is active. The manager's lock is held.
func (n *Network) activePort(id uuid.UUID) (*Port, error) {
	p, err := n.port(id)
	if err == nil {
		err = n.mustBeActive()
	}
	return p, err
}

// LimitPort gives a port that a client made the rates b, of both directions, and keeps its floor free. The rates of the port's
// tap are the client's to set.
func (n *Network) LimitPort(id uuid.UUID, b portconf.Bandwidth) error {
	n.m.mu.Lock()
	_, err := n.activePort(id)
	n.m.mu.Unlock()
	if err != nil {
		return err
	}
	return n.m.Limit(id, b)
}

// dropClientPorts forgets the clients' ports on a network that stopped. The manager's lock is held.
func (n *Network) dropClientPorts() {
	for _, p := range n.portList() {
		if p.Client {
			n.m.dropOrphan(p)
		}
	}
}

// dropOrphan forgets a port whose network is not there. The manager's lock is held.
func (m *Manager) dropOrphan(p *Port) {
	if err := m.dropPort(p.UUID); err != nil {
		m.log.Error("cannot remove a port of a network that stopped", "network", p.Network, "port", p.UUID, "error", err)
	}
}

// wish is what a client says of its port beyond what an interface of a domain does. For nil, an interface of a domain, its
// methods change nothing.
type wish struct {
	id       uuid.UUID
	isolated string // yes, no, or "" for what the network says
	trust    string // the same
	plug     plug
}

// plug is the place that a port has already.
type plug struct {
	kind     string // type=, "" for none
	bridge   string
	dev      string
	mode     string // "" for any
	function portconf.Function
	managed  string // yes, no, or "" for what the network says
}

// name makes a port the client's. The manager's lock is held.
func (w *wish) name(m *Manager, p *Port) error {
	if w == nil {
		return nil
	}
	if m.ports[w.id] != nil {
		return failure(virterr.NetworkPortExist, "Network port with UUID %s already exists", w.id)
	}
	p.UUID, p.Client = w.id, true
	return nil
}

// linksOf returns those of a pool's links that the port may be on.
func (w *wish) linksOf(n *Network, links []string) ([]string, error) {
	if w == nil || w.plug.kind != plugDirect {
		return links, nil
	}
	if !slices.Contains(links, w.plug.dev) {
		return nil, failure(virterr.InternalError, "network '%s' doesn't have dev='%s' in use by network port '%s'", n.Name(), w.plug.dev, w.id)
	}
	return []string{w.plug.dev}, nil
}

// function returns the one of a pool's functions that the port has already, if it has one. It may be in use, by the client.
// The caller holds the manager's choosing.
func (w *wish) function(n *Network, pool []portconf.Function) (f portconf.Function, given bool, err error) {
	if w == nil || w.plug.kind != plugHostdev {
		return f, false, nil
	}
	f = w.plug.function
	if !slices.Contains(pool, f) {
		return f, true, failure(virterr.InternalError, "network '%s' doesn't have PCI device %s in use by network port", n.Name(), f)
	}
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	for _, p := range n.m.ports {
		if p.Function == f.String() {
			return f, true, failure(virterr.InternalError, "network '%s' claims the PCI device at domain=%d bus=%d slot=%d function=%d is already in use by "+
				"a different network port (%s)", n.def.name, f.Domain, f.Bus, f.Slot, f.Number, p.holder())
		}
	}
	return f, true, nil
}

// fit gives a port that has found its place the rest of what the client says, and refuses what is not so. The manager's lock is
// held.
func (w *wish) fit(n *Network, p *Port) error {
	if w == nil {
		return nil
	}
	if w.isolated == "no" {
		p.Isolated = false
	}
	if w.trust != "" {
		p.Trust = w.trust == "yes"
	}
	if p.Function != "" && w.plug.managed != "" {
		p.Managed = w.plug.managed == "yes"
	}
	return w.plug.check(n, p)
}

// check refuses a plug that the network does not have.
func (pl plug) check(n *Network, p *Port) error {
	has := p.plugKind()
	switch {
	case pl.kind == "":
		return nil
	case pl.kind != has:
		return failure(virterr.OperationInvalid, "port %s has a plug of type '%s', but ports of network '%s' are of type '%s'", p.UUID, pl.kind, n.def.name, has)
	case pl.bridge != "" && pl.bridge != p.Bridge:
		return failure(virterr.OperationInvalid, "port %s is on bridge '%s', but network '%s' is on '%s'", p.UUID, pl.bridge, n.def.name, p.Bridge)
	case pl.mode != "" && pl.mode != p.Mode:
		return failure(virterr.OperationInvalid, "port %s is of mode '%s', but network '%s' has mode '%s'", p.UUID, pl.mode, n.def.name, p.Mode)
	}
	return nil
}
