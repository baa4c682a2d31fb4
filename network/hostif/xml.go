package hostif

import (
	"strconv"

	"virtd/domain/xmltree"
)

// XML returns the interface's document as libvirt prints it. Without live it has no link state.
func (i *Interface) XML(live bool) string {
	root := i.element(live)
	if i.mtu > 0 {
		root.InsertAt(0, xmltree.New("mtu", "size", strconv.Itoa(i.mtu)))
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		var protocol *xmltree.Node
		for _, a := range i.addresses {
			if a.v6 != (family == "ipv6") {
				continue
			}
			if protocol == nil {
				protocol = root.Append(xmltree.New("protocol", "family", family))
			}
			protocol.Append(xmltree.New("ip", "address", a.ip, "prefix", strconv.Itoa(a.prefix)))
		}
	}
	switch i.kind {
	case kindBridge, kindBond:
		box := root.Append(xmltree.New(string(i.kind)))
		if i.kind == kindBond && i.bondMode != "" {
			box.SetAttr("mode", i.bondMode)
		}
		for _, p := range i.ports {
			box.Append(p.bare(live))
		}
	case kindVLAN:
		root.Append(i.vlan())
	}
	return root.String()
}

// element has what every interface tells; libvirt's schema has no MAC address for the kinds that take it from others.
func (i *Interface) element(live bool) *xmltree.Node {
	n := xmltree.New("interface", "type", string(i.kind), "name", i.Name)
	if live && i.kind != kindBridge {
		n.Append(xmltree.New("link", "state", i.state))
	}
	if i.kind == kindEthernet {
		n.Append(xmltree.New("mac", "address", i.MAC))
	}
	return n
}

// bare is an interface inside another: without addresses and MTU.
func (i *Interface) bare(live bool) *xmltree.Node {
	n := i.element(live)
	switch i.kind {
	case kindVLAN:
		n.Append(i.vlan())
	case kindBond:
		box := n.Append(xmltree.New("bond"))
		for _, p := range i.ports {
			box.Append(p.bare(live))
		}
	}
	return n
}

func (i *Interface) vlan() *xmltree.Node {
	n := xmltree.New("vlan", "tag", strconv.Itoa(i.tag))
	n.Append(xmltree.New("interface", "name", i.lower))
	return n
}
