package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/uuid"

	"virtd/virterr"
)

// resume makes sure of the active networks' part of the host. It is called before anybody else has the manager.
func (m *Manager) resume() {
	var all []Spec
	for _, n := range m.networks {
		if !n.active {
			continue
		}
		s := n.def.spec()
		if !n.def.ownsBridge() {
			if err := m.bringUp(n, s); err != nil {
				m.log.Error("the host takes no part in an active network; stop and start it", "network", s.Name, "error", err)
			}
			continue
		}
		all = append(all, s)
		if err := m.cfg.Host.Up(s); err != nil {
			m.log.Error("an active network is damaged and cannot be repaired; stop and start it", "network", s.Name, "error", err)
		}
		if err := n.shape(s); err != nil {
			m.log.Error("an active network has not the bandwidth that its definition says; stop and start it", "network", s.Name, "error", err)
		}
		if err := m.cfg.Host.Serve(s); err != nil {
			m.log.Error("an active network has no services; stop and start it", "network", s.Name, "error", err)
		}
		m.replug(n)
	}
	if len(all) == 0 {
		m.openOthers(nil) // what the last virtd opened is closed
		return            // and nothing else of the host is touched
	}
	if err := m.filter(all); err != nil {
		m.log.Error("cannot set the packet filter of the active networks", "error", err)
	}
}

// bringUp does everything on the host that a network needs, or nothing. The caller holds change.
func (m *Manager) bringUp(n *Network, s Spec) error {
	if !s.Mode.ownsBridge() {
		if !s.HostLink.IsValid() {
			return nil
		}
		return m.cfg.Host.HostLinkUp(s)
	}
	if err := m.cfg.Host.Up(s); err != nil {
		return err
	}
	err := n.shape(s)
	if err == nil {
		err = m.filter(append(m.activeSpecs(s.UUID), s))
	}
	if err == nil {
		err = m.cfg.Host.Serve(s)
	}
	if err != nil {
		return errors.Join(err, m.takeDown(s))
	}
	return nil
}

// takeDown undoes bringUp. The caller holds change.
func (m *Manager) takeDown(s Spec) error {
	if !s.Mode.ownsBridge() {
		if !s.HostLink.IsValid() {
			return nil
		}
		return m.cfg.Host.HostLinkDown(s)
	}
	return errors.Join(m.cfg.Host.StopServing(s.UUID), m.filter(m.activeSpecs(s.UUID)), m.cfg.Host.Down(s))
}

// activeSpecs returns the active networks except one.
func (m *Manager) activeSpecs(except uuid.UUID) []Spec {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Spec
	for _, n := range m.networks {
		if n.active && n.id != except && n.def.ownsBridge() {
			out = append(out, n.def.spec())
		}
	}
	return out
}

// replug puts the taps of domains back on a network's bridge, which may be another one than before. The caller holds change,
// or nobody else has the manager.
func (m *Manager) replug(n *Network) {
	m.mu.Lock()
	ports, own, bridge := n.portList(), n.def.ownsBridge(), n.def.bridge
	m.mu.Unlock()
	for _, p := range ports {
		if p.Tap == "" || !own {
			continue
		}
		p, err := m.movePort(p.UUID, bridge)
		if err != nil {
			m.log.Warn("the bridge of a port is not on record", "domain", p.Owner.Name, "tap", p.Tap, "bridge", bridge, "error", err)
		}
		if p.Tap == "" {
			continue
		}
		if err := m.cfg.Host.Plug(p.Bridge, p.Tap, p.Isolated); err != nil {
			m.log.Warn("a domain's tap cannot be put on its network", "domain", p.Owner.Name, "tap", p.Tap, "bridge", p.Bridge, "error", err)
		}
	}
}

// collides refuses to start a network that would take from the host, or from another network, a subnet or a name.
func (m *Manager) collides(d *definition) error {
	if d.functions() {
		_, err := m.functionsOf(d)
		return err
	}
	if d.direct() {
		_, err := m.candidates(d)
		return err
	}
	if !d.ownsBridge() {
		if there, err := m.cfg.Host.LinkExists(d.bridge); err != nil || !there {
			return errors.Join(err, failure(virterr.OperationFailed, "network '%s' needs the bridge '%s', which does not exist", d.name, d.bridge))
		}
		return nil
	}
	there, err := m.cfg.Host.LinkExists(d.bridge)
	if err != nil {
		return err
	}
	if there {
		return failure(virterr.InternalError, "bridge name '%s' already in use.", d.bridge)
	}
	routes, err := m.cfg.Host.Routes()
	if err != nil {
		return err
	}
	for _, r := range routes {
		for _, ip := range d.ips {
			if r.Prefix.Overlaps(ip.prefix) {
				who := ""
				if owner := m.BridgeOwner(r.Link); owner != "" {
					who = " of network '" + owner + "'"
				}
				return failure(virterr.InternalError, "Network is already in use by interface %s%s (%s there, %s wanted by network '%s')",
					r.Link, who, r.Prefix.Masked(), ip.prefix.Masked(), d.name)
			}
		}
	}
	return nil
}

// assign completes a document: with the bridge and MAC that the network has had before, else with new ones. n is the network
// with its UUID, or nil. The manager's lock is held.
func (m *Manager) assign(d *definition, n *Network) (*definition, error) {
	if !d.ownsBridge() {
		return d, nil
	}
	if d.bridge != "" && !strings.Contains(d.bridge, "%d") {
		if m.bridgeTaken(d.bridge, d.uuid) {
			return nil, failure(virterr.InternalError, "bridge name '%s' already in use.", d.bridge)
		}
		return d.complete(d.bridge)
	}
	if n != nil && n.def.ownsBridge() && d.bridge == "" {
		return d.complete(n.def.bridge)
	}
	pattern := d.bridge
	if pattern == "" {
		pattern = "virbr%d"
	}
	const most = 256
	for i := range most {
		name := strings.Replace(pattern, "%d", fmt.Sprint(i), 1)
		if len(name) > maxLinkName {
			break
		}
		if m.bridgeTaken(name, d.uuid) { // asked first: it costs the host nothing
			continue
		}
		there, err := m.cfg.Host.LinkExists(name)
		if err != nil {
			return nil, err
		}
		if !there {
			return d.complete(name)
		}
	}
	return nil, failure(virterr.InternalError, "Bridge generation exceeded max id %d", most)
}

// BridgeOwner returns the name of the network that makes a bridge of that name, "" for none.
func (m *Manager) BridgeOwner(bridge string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.networks {
		if n.def.ownsBridge() && n.def.bridge == bridge {
			return n.def.name
		}
	}
	return ""
}

// bridgeTaken reports whether another network makes a bridge of that name.
func (m *Manager) bridgeTaken(name string, except uuid.UUID) bool {
	for _, n := range m.networks {
		if n.id != except && (n.def.bridge == name && n.def.ownsBridge() || n.next != nil && n.next.bridge == name) {
			return true
		}
	}
	return false
}

// defaultNetwork is the document of the network that every host has: libvirt's, on the first subnet that is free.
func (m *Manager) defaultNetwork() (string, error) {
	taken, err := m.cfg.Host.Routes()
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	for _, n := range m.networks {
		for _, ip := range n.def.ips {
			taken = append(taken, HostRoute{Prefix: ip.prefix})
		}
	}
	m.mu.Unlock()
	for third := 122; third < 255; third++ {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(third), 0}), 24)
		free := true
		for _, t := range taken {
			free = free && !t.Prefix.Overlaps(subnet)
		}
		if !free {
			continue
		}
		return fmt.Sprintf("<network><name>default</name><forward mode='nat'/><ip address='192.168.%[1]d.1' netmask='255.255.255.0'>"+
			"<dhcp><range start='192.168.%[1]d.2' end='192.168.%[1]d.254'/></dhcp></ip></network>", third), nil
	}
	return "", failure(virterr.OperationFailed, "no subnet from 192.168.122.0/24 to 192.168.254.0/24 is free for a network named default")
}
