package network

import (
	"net/netip"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// A network of mode private, vepa or passthrough, or of mode bridge without a bridge, is a pool of the host's links: each port
// is a macvtap on one of them, which whoever has the port makes.

// direct reports whether the network is a pool of links.
func (d *definition) direct() bool { return !d.ownsBridge() && len(d.forward.devs) > 0 }

// readPool reads the links of a pool. libvirt prints the first also as dev=.
func (d *definition) readPool(n *xmltree.Node) error {
	list := n.All("interface")
	if len(list) == 0 && d.forward.dev != "" {
		list = append(list, n.InsertAt(0, xmltree.New("interface", "dev", d.forward.dev)))
	}
	for _, i := range list {
		dev := i.Attr("dev")
		i.RemoveAttr("connections")
		if dev == "" {
			return malformed(i, "Missing required dev attribute in <forward> <interface> element of network %s", d.name)
		}
		if err := linkName(i, dev); err != nil {
			return err
		}
		for _, have := range d.forward.devs {
			if have == dev {
				return malformed(i, "interface '%s' is given twice in the pool of network '%s'", dev, d.name)
			}
		}
		d.forward.devs = append(d.forward.devs, dev)
	}
	if len(list) == 0 {
		if d.forward.mode == ModeBridge {
			return nil // over a bridge
		}
		return malformed(n, "forward mode '%s' of network '%s' needs the host's links: <interface dev='eth0'/>", d.forward.mode, d.name)
	}
	if dev := d.forward.dev; dev != "" && dev != d.forward.devs[0] {
		return malformed(list[0], "forward dev '%s' must match first interface element dev '%s' in network '%s'", dev, d.forward.devs[0], d.name)
	}
	d.forward.dev = d.forward.devs[0]
	n.SetAttr("dev", d.forward.dev)
	return order(n)
}

// fitsPool refuses what does not go together with a pool.
func (d *definition) fitsPool(root *xmltree.Node) error {
	b := root.Child("bridge")
	switch {
	case d.bridge != "" && d.forward.mode == ModeBridge:
		return malformed(b, "A network with forward mode='bridge' can specify a bridge name or a forward dev, but not both (network '%s')", d.name)
	case d.bridge != "":
		return malformed(b, "bridge name not allowed in %s mode (network '%s')", d.forward.mode, d.name)
	case d.isolate:
		return unsupported(root.Child("port"), "isolated ports are not possible in network '%s'; use <forward mode='private'>", d.name)
	}
	return d.readHostLink(root)
}

// HostNamespace is the namespace of what virtd itself has in a network's <metadata>.
const HostNamespace = "https://virtd/xmlns/network/1.0"

// hostLink is how the host takes part in a pool of mode bridge: with a link of its own beside the guests' macvtaps, because
// frames do not go between these and the device below them.
type hostLink struct {
	address netip.Prefix
	guests  []netip.Prefix // reached through it rather than through the device
}

// readHostLink reads <virtd:host address='192.168.1.5/24' guests='192.168.1.192/26'/>.
func (d *definition) readHostLink(root *xmltree.Node) error {
	for _, n := range root.Child("metadata").Elements() {
		if uri, _ := n.Namespace(n.Name.Prefix); uri != HostNamespace || n.Name.Local != "host" {
			continue
		}
		if d.forward.mode != ModeBridge {
			return unsupported(n, "the host reaches guests in forward mode 'bridge' only, not '%s' (network '%s')", d.forward.mode, d.name)
		}
		address, err := netip.ParsePrefix(n.Attr("address"))
		if err != nil || address.Addr().IsUnspecified() || address.Addr().IsMulticast() {
			return malformed(n, "the host's address '%s' in network '%s' is none with a length, such as 192.168.1.5/24", n.Attr("address"), d.name)
		}
		h := &hostLink{address: address}
		for _, text := range strings.Fields(n.Attr("guests")) {
			p, err := netip.ParsePrefix(text)
			if err != nil || p.Addr().Is4() != address.Addr().Is4() || p.Bits() <= address.Bits() || !address.Masked().Contains(p.Addr()) {
				return malformed(n, "the guests' addresses '%s' in network '%s' are not a part of %s", text, d.name, address.Masked())
			}
			h.guests = append(h.guests, p.Masked())
		}
		d.host = h
	}
	return nil
}

// HostLinkName is the link by which the host takes part in a network.
func HostLinkName(id uuid.UUID) string { return "mvhost-" + id.String()[:8] }

// candidates returns the links of a pool that the host has. The manager's lock is not held.
func (m *Manager) candidates(d *definition) ([]string, error) {
	var out []string
	for _, dev := range d.forward.devs {
		there, err := m.cfg.Host.LinkExists(dev)
		if err != nil {
			return nil, err
		}
		if there {
			out = append(out, dev)
		}
	}
	if len(out) == 0 {
		return nil, failure(virterr.OperationFailed, "network '%s' has no link that exists: %s", d.name, strings.Join(d.forward.devs, ", "))
	}
	return out, nil
}

// pick chooses the link for a port: the one with the fewest ports, or, where each has one at most, one without. Ports of other
// networks on it count too. The manager's lock is held.
func (m *Manager) pick(d *definition, from []string) (string, error) {
	load := map[string]int{}
	exclusive := map[string]string{} // link: the network that has it for one port
	for _, p := range m.ports {
		if p.Dev == "" {
			continue
		}
		load[p.Dev]++
		if p.Mode == string(ModePassthrough) {
			exclusive[p.Dev] = p.holder()
		}
	}
	best := ""
	for _, dev := range from {
		if exclusive[dev] != "" || d.forward.mode == ModePassthrough && load[dev] > 0 {
			continue
		}
		if best == "" || load[dev] < load[best] {
			best = dev
		}
	}
	if best == "" {
		return "", failure(virterr.InternalError, "network '%s' requires exclusive access to interfaces, but none are available (%s)",
			d.name, m.holders(from))
	}
	return best, nil
}

// holders says who has the links of a pool.
func (m *Manager) holders(devs []string) string {
	var out []string
	for _, dev := range devs {
		for _, p := range m.ports {
			if p.Dev == dev {
				out = append(out, dev+" is with "+p.holder())
				break
			}
		}
	}
	return strings.Join(out, ", ")
}

// trusts reports whether the macvtaps of a network's guests follow the guests' receive filters.
func (d *definition) trusts(group string) bool {
	trust := d.doc.Root.Attr("trustGuestRxFilters")
	for _, g := range d.doc.Root.All("portgroup") {
		if g.Attr("name") == group || group == "" && g.Attr("default") == "yes" {
			if t := g.Attr("trustGuestRxFilters"); t != "" {
				trust = t
			}
		}
	}
	return trust == "yes"
}
