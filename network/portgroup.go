package network

import (
	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
)

// group is <portgroup>: what interfaces that name it get, or all that name none.
type group struct {
	name     string
	standard bool // for interfaces that name none
	vlan     portconf.VLAN
	limits   portconf.Bandwidth
}

func (d *definition) readLimits(root *xmltree.Node) (err error) {
	if d.vlan, err = portconf.ReadVLAN(root); err == nil {
		d.limits, err = portconf.ReadBandwidth(root, false)
	}
	if err != nil {
		return fromNetwork(err)
	}
	return nil
}

func (d *definition) readGroups(root *xmltree.Node) error {
	standard := ""
	for _, n := range root.All("portgroup") {
		g := group{name: n.Attr("name"), standard: n.Attr("default") == "yes"}
		if g.name == "" {
			return malformed(n, "Missing required name attribute in portgroup")
		}
		if _, taken := d.group(g.name); taken {
			return malformed(n, "multiple <portgroup> elements with the same name (%s) in network '%s'", g.name, d.name)
		}
		if g.standard && standard != "" {
			return malformed(n, "multiple default <portgroup> elements in network '%s': %s and %s", d.name, standard, g.name)
		}
		var err error
		if g.vlan, err = portconf.ReadVLAN(n); err == nil {
			g.limits, err = portconf.ReadBandwidth(n, false)
		}
		if err != nil {
			return fromNetwork(err)
		}
		if g.standard {
			standard = g.name
		}
		d.groups = append(d.groups, g)
	}
	return nil
}

// fitsOwn refuses VLANs on a bridge that a network makes: its guests share the host's addresses, which are in none.
func (d *definition) fitsOwn(root *xmltree.Node) error {
	all := append([]*xmltree.Node{root}, root.All("portgroup")...)
	for _, n := range all {
		if v := n.Child("vlan"); v != nil {
			return unsupported(v, "<vlan> element specified for network %s, whose type doesn't support vlan configuration", d.name)
		}
	}
	return nil
}

// group finds the port group of that name; for "" the one that is for interfaces that name none.
func (d *definition) group(name string) (group, bool) {
	for _, g := range d.groups {
		if g.name == name || name == "" && g.standard {
			return g, true
		}
	}
	return group{}, false
}

// settle fills in what a port gets: what the interface asks for comes before what its port group says, and that before what the
// network says.
func (d *definition) settle(p *Port, req Request) error {
	g, known := d.group(req.Group)
	if req.Group != "" && !known {
		return failure(virterr.InvalidArg, "network '%s' has no portgroup '%s'", d.name, req.Group)
	}
	p.VLAN, p.Limits, p.Group = req.VLAN, req.Limits, req.Group
	if p.VLAN.Given() && d.ownsBridge() {
		return failure(virterr.ConfigUnsupported, "an interface connecting to network '%s' is requesting a vlan tag, but that is not supported for this type of network", d.name)
	}
	if !p.VLAN.Given() {
		p.VLAN = g.vlan
	}
	if !p.VLAN.Given() {
		p.VLAN = d.vlan
	}
	if p.Limits == (portconf.Bandwidth{}) {
		p.Limits = g.limits
	}
	return nil
}
