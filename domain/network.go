package domain

import (
	"virtd/domain/xmltree"
	"virtd/network/portconf"
)

// NetworkInterface is an interface of a domain on a virtual network.
type NetworkInterface struct {
	Alias    string // net0, of a running domain
	MAC      string
	Network  string // its name
	Group    string // portgroup
	Isolated bool   // asked for by the interface
	VLAN     portconf.VLAN
	Limits   portconf.Bandwidth
	Port     string // UUID of its port, "" before it has one
	Tap      string // the host's end, "" before it has one
}

// NetworkPort is what a virtual network gave an interface.
type NetworkPort struct {
	UUID     string
	Bridge   string
	Isolated bool
	VLAN     portconf.VLAN
	Limits   portconf.Bandwidth
}

// NetworkInterfaces returns the interfaces that are on virtual networks.
func (d *Definition) NetworkInterfaces() []NetworkInterface {
	var out []NetworkInterface
	for _, nic := range d.doc.Root.Child("devices").All("interface") {
		if nic.Attr("type") != "network" {
			continue
		}
		source := nic.Child("source")
		vlan, _ := portconf.ReadVLAN(nic) // was read when the definition was made
		limits, _ := portconf.ReadBandwidth(nic, true)
		out = append(out, NetworkInterface{
			VLAN: vlan, Limits: limits,
			Alias: nic.Child("alias").Attr("name"), MAC: nic.Child("mac").Attr("address"),
			Network: source.Attr("network"), Group: source.Attr("portgroup"), Isolated: nic.Child("port").Attr("isolated") == "yes",
			Port: source.Attr("portid"), Tap: nic.Child("target").Attr("dev"),
		})
	}
	return out
}

// SetPorts returns the live definition with the ports that virtual networks gave its interfaces, by alias.
func (d *Definition) SetPorts(ports map[string]NetworkPort) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		for _, nic := range root.Child("devices").All("interface") {
			p, ok := ports[nic.Child("alias").Attr("name")]
			if !ok {
				continue
			}
			source := nic.Ensure("source")
			source.SetAttr("portid", p.UUID)
			source.SetAttr("bridge", p.Bridge)
			if p.Isolated {
				nic.Ensure("port").SetAttr("isolated", "yes")
			}
			for name, e := range map[string]*xmltree.Node{"vlan": p.VLAN.Node(), "bandwidth": p.Limits.Node()} {
				if e != nil && nic.Child(name) == nil {
					nic.Append(e)
				}
			}
		}
		return nil
	})
}

// stripPort removes what a virtual network gave an interface.
func stripPort(nic *xmltree.Node) {
	if source := nic.Child("source"); nic.Attr("type") == "network" && source != nil {
		source.RemoveAttr("portid")
		source.RemoveAttr("bridge")
	}
}
