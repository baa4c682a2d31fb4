package network

import (
	"errors"

	"github.com/google/uuid"

	"virtd/network/dhcp"
	"virtd/network/portconf"
	"virtd/virterr"
)

// Network is one virtual network. A Network stays usable as a name for it after it is gone; its methods then say that there
// is none.
type Network struct {
	m  *Manager
	id uuid.UUID

	// Guarded by m.mu.
	def        *definition // what applies now
	next       *definition // what applies from the next start, where that differs
	active     bool
	persistent bool
	autostart  bool
}

// Name returns the network's name.
func (n *Network) Name() string {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	return n.def.name
}

// UUID returns the network's UUID.
func (n *Network) UUID() uuid.UUID { return n.id }

// Active reports whether the network is started.
func (n *Network) Active() bool {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	return n.active
}

// Persistent reports whether the network has a definition that outlives its stop.
func (n *Network) Persistent() bool {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	return n.persistent
}

// Autostart reports whether the network is started with the host.
func (n *Network) Autostart() bool {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	return n.autostart
}

// Bridge returns the name of the network's bridge. A pool of links has none.
func (n *Network) Bridge() (string, error) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if err := n.gone(); err != nil {
		return "", err
	}
	if n.def.bridge == "" {
		return "", failure(virterr.InternalError, "network '%s' does not have a bridge name.", n.def.name)
	}
	return n.def.bridge, nil
}

// XML returns the network's document: what applies now, or from the next start.
func (n *Network) XML(inactive bool) (string, error) {
	pool := n.pool(inactive)
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if err := n.gone(); err != nil {
		return "", err
	}
	if inactive && n.next != nil {
		return n.next.xml(), nil
	}
	if inactive || !n.active {
		return n.def.xml(), nil
	}
	return n.def.liveXML(n.portList(), pool), nil
}

// pool returns what a running pool of virtual functions has, as far as the host tells.
func (n *Network) pool(inactive bool) []portconf.Function {
	n.m.mu.Lock()
	d, active := n.def, n.active
	n.m.mu.Unlock()
	if inactive || !active || !d.functions() {
		return nil
	}
	list, err := n.m.functionsOf(d)
	if err != nil {
		n.m.log.Warn("the devices of a network cannot be listed", "network", d.name, "error", err)
	}
	return list
}

// Leases returns the addresses that guests have on the network.
func (n *Network) Leases() ([]dhcp.Lease, error) {
	n.m.mu.Lock()
	err := n.mustBeActive()
	serves := err == nil && len(n.def.spec().DHCP) > 0
	n.m.mu.Unlock()
	if err != nil || !serves {
		return nil, err
	}
	return n.m.cfg.Host.Leases(n.id)
}

// emit queues an event; the manager's lock is held.
func (n *Network) emit(what Lifecycle) {
	n.m.events.Emit(Event{Name: n.def.name, UUID: n.id, Type: what})
}

// gone says that the network was removed since the caller got hold of it; the manager's lock is held.
func (n *Network) gone() error {
	if n.m.networks[n.id] != n {
		return failure(virterr.NoNetwork, "no network with matching uuid '%s' (%s)", n.id, n.def.name)
	}
	return nil
}

func (n *Network) mustBeActive() error {
	if err := n.gone(); err != nil {
		return err
	}
	if !n.active {
		return failure(virterr.OperationInvalid, "network '%s' is not active", n.def.name)
	}
	return nil
}

// Start makes the network's bridge, rules and services. Taps of domains that were on it before come back.
func (n *Network) Start() error {
	n.m.change.Lock()
	defer n.m.change.Unlock()
	n.m.mu.Lock()
	err := n.gone()
	if err == nil && n.active {
		err = failure(virterr.OperationInvalid, "network is already active")
	}
	d := n.def
	n.m.mu.Unlock()
	if err != nil {
		return err
	}
	return n.activate(d)
}

// activate does what Start says, for definition d. The caller holds change, and has seen that the network is inactive.
func (n *Network) activate(d *definition) error {
	if err := n.m.collides(d); err != nil {
		return err
	}
	// On record first: what a kill leaves half made is completed by the next virtd.
	if err := n.m.records.SetActive(d); err != nil {
		return err
	}
	s := d.spec()
	if err := n.m.bringUp(n, s); err != nil {
		return errors.Join(err, n.m.records.SetInactive(n.id))
	}
	n.m.mu.Lock()
	if n.persistent && d != n.def {
		n.next = n.def
	}
	n.def, n.active = d, true
	n.m.networks[n.id] = n
	n.emit(Started)
	n.m.mu.Unlock()
	n.m.replug(n)
	return nil
}

// Destroy stops the network. Domains on it keep their taps, which come back to its bridge when it is started again. Ports that
// clients made are gone.
func (n *Network) Destroy() error {
	n.m.change.Lock()
	defer n.m.change.Unlock()
	n.m.mu.Lock()
	err := n.mustBeActive()
	s := n.def.spec()
	n.m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := n.m.takeDown(s); err != nil {
		return err
	}
	if err := n.m.records.SetInactive(n.id); err != nil {
		return err
	}
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	n.active = false
	n.dropClientPorts()
	n.emit(Stopped)
	if !n.persistent {
		n.m.remove(n)
	} else if n.next != nil {
		n.def, n.next = n.next, nil
	}
	return nil
}

// Undefine removes the definition. A network that is active goes on as a transient one.
func (n *Network) Undefine() error {
	n.m.change.Lock()
	defer n.m.change.Unlock()
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if err := n.gone(); err != nil {
		return err
	}
	if !n.persistent {
		return failure(virterr.OperationInvalid, "can't undefine transient network")
	}
	if err := n.m.records.Forget(n.id); err != nil {
		return err
	}
	n.persistent, n.autostart, n.next = false, false, nil
	n.emit(Undefined)
	if !n.active {
		n.m.remove(n)
	}
	return nil
}

// SetAutostart says whether the network is started with the host.
func (n *Network) SetAutostart(on bool) error {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	if err := n.gone(); err != nil {
		return err
	}
	if !n.persistent {
		return failure(virterr.OperationInvalid, "cannot set autostart for transient network")
	}
	if n.autostart == on {
		return nil
	}
	if err := n.m.records.SetAutostart(n.id, on); err != nil {
		return err
	}
	n.autostart = on
	return nil
}
