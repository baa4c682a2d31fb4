package domain

import (
	"strings"

	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
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
	UUID string
	// Type is what the interface is while it has the port: network, on a bridge of the network's own; bridge, on one that
	// the host has; direct, a macvtap; or hostdev, a virtual function. "" is network.
	Type      string
	Bridge    string
	Dev, Mode string            // of a direct one: the host's link, and how macvtaps on it reach each other
	Function  portconf.Function // of a hostdev: where it is on the host
	Managed   bool              // it is taken from its driver for the domain
	Isolated  bool
	Trust     bool // a direct one follows the guest's receive filter, where the interface does not say
	VLAN      portconf.VLAN
	Limits    portconf.Bandwidth
}

// NetworkInterfaces returns the interfaces that are on virtual networks.
func (d *Definition) NetworkInterfaces() []NetworkInterface {
	var out []NetworkInterface
	for _, nic := range d.doc.Root.Child("devices").All("interface") {
		source := nic.Child("source")
		if nic.Attr("type") != "network" && !hasPort(nic) {
			continue
		}
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

// hasPort reports whether a virtual network has made the interface what it is.
func hasPort(nic *xmltree.Node) bool {
	source := nic.Child("source")
	return source.Attr("network") != "" && source.Attr("portid") != ""
}

// SetPorts returns the live definition with the ports that virtual networks gave its interfaces, by alias.
func (d *Definition) SetPorts(ports map[string]NetworkPort) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		for _, nic := range root.Child("devices").All("interface") {
			p, ok := ports[nic.Child("alias").Attr("name")]
			if !ok {
				continue
			}
			if p.Type != "" {
				nic.SetAttr("type", p.Type)
			}
			source := nic.Ensure("source")
			source.SetAttr("portid", p.UUID)
			if p.Type == typeHostdev {
				if err := d.becomeHostdev(root, nic, p); err != nil {
					return err
				}
			}
			for _, a := range [][2]string{{"bridge", p.Bridge}, {"dev", p.Dev}, {"mode", p.Mode}} {
				if a[1] != "" {
					source.SetAttr(a[0], a[1])
				}
			}
			if p.Trust {
				setDefault(nic, "trustGuestRxFilters", "yes")
			}
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

// becomeHostdev makes an interface the virtual function that its port is. Its alias becomes one of a host device, unless the
// user chose it. What a virtual function cannot have is refused only now, because a definition does not say what its network is.
func (d *Definition) becomeHostdev(root, nic *xmltree.Node, p NetworkPort) error {
	mac := nic.Child("mac").Attr("address")
	if nic.Child("driver").Attr("queues") != "" {
		return nic.Child("driver").Errorf(virterr.ConfigUnsupported, "interface %s - multiqueue is not supported for network interfaces of type hostdev", mac)
	}
	if err := noRSS(nic); err != nil { // before its <driver> is another
		return err
	}
	nic.SetAttr("managed", map[bool]string{true: "yes", false: "no"}[p.Managed])
	source := nic.Child("source")
	source.RemoveAll("address")
	p.Function.Write(source.Append(xmltree.New("address", "type", "pci")))
	for _, name := range []string{"model", "target", "driver"} {
		nic.RemoveAll(name)
	}
	nameHostdevDriver(root, nic)
	if err := nicFilter(nic); err != nil {
		return err
	}
	if err := d.hostdevNIC(nic); err != nil {
		return err
	}
	if alias := nic.Child("alias"); !strings.HasPrefix(alias.Attr("name"), "ua-") {
		alias.SetAttr("name", freeAlias(root.Child("devices"), nic))
	}
	return nil
}

// hidePorts removes what libvirt's documents do not tell of an interface that is a virtual function: which network it is of.
func hidePorts(root *xmltree.Node) {
	for _, nic := range root.Child("devices").All("interface") {
		if nic.Attr("type") == typeHostdev && hasPort(nic) {
			for _, attr := range []string{"network", "portgroup", "portid"} {
				nic.Child("source").RemoveAttr(attr)
			}
		}
	}
}

// stripPort removes what a virtual network gave an interface.
func stripPort(nic *xmltree.Node) {
	source := nic.Child("source")
	if source == nil || nic.Attr("type") != "network" && !hasPort(nic) {
		return
	}
	if nic.Attr("type") == typeHostdev {
		nic.RemoveAttr("managed")
		nic.RemoveAll("driver")
		source.RemoveAll("address")
	}
	nic.SetAttr("type", "network")
	for _, attr := range []string{"portid", "bridge", "dev", "mode"} {
		source.RemoveAttr(attr)
	}
}
