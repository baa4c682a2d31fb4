package manager

import (
	"errors"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/network"
	"virtd/network/portconf"
	"virtd/virterr"
)

// Networks is what domains need of the virtual networks. *network.Manager is the real one.
type Networks interface {
	// Connect makes a port, Connected notes its tap, Disconnect removes it; one that is gone is no error.
	Connect(network.Request) (*network.Port, error)
	Connected(port uuid.UUID, tap string) error
	Disconnect(port uuid.UUID) error
	// Limit gives a port other rates.
	Limit(port uuid.UUID, b portconf.Bandwidth) error
}

// connect gives every interface on a virtual network its port. The ports are in r.live when it returns, also on an error, and
// so are removed with the life r. Interfaces that have a port keep it: an engine was replaced.
func (d *Domain) connect(r *run) error {
	d.mu.Lock()
	live := r.live
	d.mu.Unlock()
	ports := map[string]domain.NetworkPort{}
	var failed error
	for _, nic := range live.NetworkInterfaces() {
		if nic.Port != "" {
			continue
		}
		p, err := d.connectOne(nic)
		if err != nil {
			failed = err
			break
		}
		ports[nic.Alias] = given(p)
	}
	if len(ports) == 0 {
		return failed
	}
	live, err := live.SetPorts(ports)
	if err != nil {
		for _, p := range ports {
			err = errors.Join(err, d.m.cfg.Networks.Disconnect(uuid.MustParse(p.UUID)))
		}
		return err
	}
	d.mu.Lock()
	r.live = live
	d.mu.Unlock()
	return failed
}

// connectNew gives the device that is about to be attached its port, when it is an interface on a virtual network. The port may
// change the alias. release takes the port back.
func (d *Domain) connectNew(live *domain.Definition, alias string) (with *domain.Definition, now string, release func(), err error) {
	for _, nic := range live.NetworkInterfaces() {
		if nic.Alias != alias || nic.Port != "" {
			continue
		}
		p, err := d.connectOne(nic)
		if err != nil {
			return nil, "", nil, err
		}
		release := func() { d.disconnectPort(nic.Network, p.UUID) }
		with, err := live.SetPorts(map[string]domain.NetworkPort{alias: given(p)})
		if err != nil {
			release()
			return nil, "", nil, err
		}
		for _, nic := range with.NetworkInterfaces() {
			if nic.Port == p.UUID.String() {
				alias = nic.Alias
			}
		}
		return with, alias, release, nil
	}
	return live, alias, func() {}, nil
}

// given is what an interface becomes by its port, as libvirt shows it.
func given(p *network.Port) domain.NetworkPort {
	out := domain.NetworkPort{UUID: p.UUID.String(), Type: "bridge", Bridge: p.Bridge, Dev: p.Dev, Mode: p.Mode, Isolated: p.Isolated, Trust: p.Trust,
		VLAN: p.VLAN, Limits: p.Limits}
	switch {
	case p.Function != "":
		out.Type, out.Managed = "hostdev", p.Managed
		out.Function, _ = portconf.ParseFunction(p.Function) // the network wrote it
	case p.Dev != "":
		out.Type = "direct"
	case p.Own:
		out.Type = "network"
	}
	return out
}

func (d *Domain) connectOne(nic domain.NetworkInterface) (*network.Port, error) {
	if d.m.cfg.Networks == nil {
		return nil, virterr.NewFrom(virterr.FromNetwork, virterr.NoNetwork, "no network with matching name '%s'", nic.Network)
	}
	return d.m.cfg.Networks.Connect(network.Request{
		Network: nic.Network, Owner: network.Owner{Name: d.Name(), UUID: d.uuid}, MAC: nic.MAC, Group: nic.Group, Isolated: nic.Isolated,
		VLAN: nic.VLAN, Limits: nic.Limits,
	})
}

// connected tells the networks which taps the ports of live have, so that these come back to bridges that are made again.
func (d *Domain) connected(live *domain.Definition) {
	for _, nic := range live.NetworkInterfaces() {
		id, err := uuid.Parse(nic.Port)
		if err == nil && nic.Tap != "" {
			err = d.m.cfg.Networks.Connected(id, nic.Tap)
		}
		if err != nil {
			d.m.log.Error("the tap of a port is not on record", "domain", d.Name(), "network", nic.Network, "err", err)
		}
	}
}

// disconnect removes the ports of a life that ends.
func (d *Domain) disconnect(live *domain.Definition) {
	for _, nic := range live.NetworkInterfaces() {
		if id, err := uuid.Parse(nic.Port); err == nil && d.m.cfg.Networks != nil {
			d.disconnectPort(nic.Network, id)
		}
	}
}

// disconnectGone removes the port of an interface that was detached: before has it, under alias.
func (d *Domain) disconnectGone(before *domain.Definition, alias string) {
	for _, nic := range before.NetworkInterfaces() {
		if id, err := uuid.Parse(nic.Port); err == nil && nic.Alias == alias && d.m.cfg.Networks != nil {
			d.disconnectPort(nic.Network, id)
		}
	}
}

func (d *Domain) disconnectPort(network string, port uuid.UUID) {
	if err := d.m.cfg.Networks.Disconnect(port); err != nil {
		d.m.log.Error("cannot remove a domain's port on a network", "domain", d.Name(), "network", network, "err", err)
	}
}

// PortsInUse returns the ports of the domains that run.
func (m *Manager) PortsInUse() map[uuid.UUID]bool {
	out := map[uuid.UUID]bool{}
	for _, d := range m.byNames() {
		d.mu.Lock()
		var live *domain.Definition
		if d.run != nil {
			live = d.run.live
		}
		d.mu.Unlock()
		if live == nil {
			continue
		}
		for _, nic := range live.NetworkInterfaces() {
			if id, err := uuid.Parse(nic.Port); err == nil {
				out[id] = true
			}
		}
	}
	return out
}
