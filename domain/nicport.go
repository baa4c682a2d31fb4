package domain

import (
	"strings"

	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
)

// nicPort checks what an interface asks of the bridge that its host end is a port of: VLANs, rates and filters.
func (d *Definition) nicPort(nic *xmltree.Node) error {
	if d.opts.Stored {
		return nil
	}
	kind := nic.Attr("type")
	if b := nic.Child("bandwidth"); b != nil && kind == typeHostdev {
		return b.Errorf(virterr.ConfigUnsupported, "interface %s - bandwidth settings are not supported for hostdev interfaces",
			nic.Child("mac").Attr("address"))
	}
	if err := nicIsolated(nic); err != nil {
		return err
	}
	if _, err := portconf.ReadBandwidth(nic, kind == "network"); err != nil {
		return err
	}
	if vlan := nic.Child("vlan"); vlan != nil && kind != typeHostdev {
		if kind != "bridge" && kind != "network" {
			return vlan.Errorf(virterr.ConfigUnsupported,
				"an interface of type '%s' is requesting a vlan tag, but that is not supported for this type of connection", kind)
		}
		if _, err := portconf.ReadVLAN(nic); err != nil {
			return err
		}
	}
	if err := nicCoalesce(nic); err != nil {
		return err
	}
	return nicFilter(nic)
}

// nicIsolated refuses isolation where the host's end is no port of a bridge: whoever asks for it relies on it. What a network makes
// of its interfaces is seen when they get their ports.
func nicIsolated(nic *xmltree.Node) error {
	port := nic.Child("port")
	if kind := nic.Attr("type"); port.Attr("isolated") == "yes" && kind != "bridge" && kind != "network" {
		return port.Errorf(virterr.ConfigUnsupported, "interface %s - <port isolated='yes'/> is not supported for network interfaces with type='%s'",
			nic.Child("mac").Attr("address"), kind)
	}
	return nil
}

// nicCoalesce checks <coalesce>, which is a property of a tap.
func nicCoalesce(nic *xmltree.Node) error {
	c := nic.Child("coalesce")
	if c == nil {
		return nil
	}
	if kind := nic.Attr("type"); kind != "bridge" && kind != "network" && kind != "ethernet" {
		return c.Errorf(virterr.ConfigUnsupported, "coalesce settings on interface type %s are not supported", kind)
	}
	_, err := portconf.ReadCoalesce(nic)
	return err
}

// nicFilter checks <filterref>. Whether there is such a filter is seen when the domain starts, as in libvirt.
func nicFilter(nic *xmltree.Node) error {
	f := nic.Child("filterref")
	if f == nil {
		return nil
	}
	if kind := nic.Attr("type"); kind != "bridge" && kind != "network" && kind != "ethernet" {
		return f.Errorf(virterr.ConfigUnsupported, "filterref is not supported for network interfaces of type %s", kind)
	}
	if f.Attr("filter") == "" {
		return f.Errorf(virterr.XMLError, "<filterref> needs the name of a filter in filter=")
	}
	for _, p := range f.All("parameter") {
		if name := p.Attr("name"); name == "" || strings.Trim(name, filterVariable) != "" || p.Attr("value") == "" {
			return p.Errorf(virterr.XMLError, "parameter '%s' of filter '%s' needs a name of letters, digits, '_', '.' and ':', and a value",
				name, f.Attr("filter"))
		}
	}
	return nil
}

// filterVariable are the characters that names of a filter's variables have.
const filterVariable = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:"

// nic finds an interface by its MAC address or the name of its host end.
func (d *Definition) nic(root *xmltree.Node, name string) *xmltree.Node {
	for _, n := range root.Child("devices").All("interface") {
		if name != "" && (n.Child("target").Attr("dev") == name || strings.EqualFold(n.Child("mac").Attr("address"), name)) {
			return n
		}
	}
	return nil
}

// InterfaceBandwidth returns the rates of an interface, which is named by its MAC address or its host end. InvalidArg if there
// is none.
func (d *Definition) InterfaceBandwidth(name string) (portconf.Bandwidth, error) {
	n := d.nic(d.doc.Root, name)
	if n == nil {
		return portconf.Bandwidth{}, noInterface(name)
	}
	return portconf.ReadBandwidth(n, true)
}

func noInterface(name string) error {
	return virterr.New(virterr.InvalidArg, "Can't find device %s", name)
}

// SetInterfaceBandwidth returns the definition with other rates of an interface.
func (d *Definition) SetInterfaceBandwidth(name string, b portconf.Bandwidth) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		n := d.nic(root, name)
		if n == nil {
			return noInterface(name)
		}
		mac := n.Child("mac").Attr("address")
		switch kind := n.Attr("type"); {
		case kind == typeHostdev:
			return virterr.New(virterr.ConfigUnsupported, "interface %s - bandwidth settings are not supported for hostdev interfaces", mac)
		case b.In.Floor > 0 && kind != "network":
			return virterr.New(virterr.ConfigUnsupported, "Invalid use of 'floor' on interface with MAC address %s - 'floor' is only supported "+
				"for interface type 'network' with forward type 'nat', 'route', 'open' or none", mac)
		}
		n.RemoveAll("bandwidth")
		if e := b.Node(); e != nil {
			n.Append(e)
		}
		return nil
	})
}

// InterfaceAlias returns the alias of a running domain's interface and its MAC address.
func (d *Definition) InterfaceAlias(name string) (alias, mac string, err error) {
	n := d.nic(d.doc.Root, name)
	if n == nil {
		return "", "", noInterface(name)
	}
	return n.Child("alias").Attr("name"), n.Child("mac").Attr("address"), nil
}
