package domain

import (
	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
)

// LiveUpdate is how an interface of a running domain changes.
type LiveUpdate struct {
	MAC  string // of the interface
	Link bool   // the document says something about the cable, or about nothing at all
	Host bool   // the host end changes: its bridge, or what it may carry
}

// hostEnd are the elements of an interface about its host end alone, which can change while the domain runs.
var hostEnd = []string{"vlan", "port", "bandwidth", "filterref", "coalesce"}

// LiveUpdate finds the interface of d that v describes and tells whether v differs only in what can change while a domain
// runs: whether its cable is plugged in, its bridge, VLANs, rates, filter and coalescing. DeviceMissing if d has no such interface.
func (d *Definition) LiveUpdate(v *Device) (change LiveUpdate, only bool, err error) {
	n, err := v.find(d.doc.Root.Child("devices"))
	if err != nil {
		return change, false, err
	}
	if n.Attr("type") != typeHostdev {
		if err := checkHostEnd(v.node, n); err != nil {
			return change, false, err
		}
	}
	said := v.node.Clone()
	stripLiveDevice(said)
	said.RemoveAll("link")
	next := n.Clone()
	setHostEnd(next, said)
	change.MAC = n.Child("mac").Attr("address")
	change.Host = !next.Equal(n)
	change.Link = !change.Host || v.node.Child("link") != nil
	for _, name := range hostEnd {
		said.RemoveAll(name)
	}
	if movable(n, said) {
		said.Child("source").SetAttr("bridge", n.Child("source").Attr("bridge"))
	}
	if said.Attr("type") == "network" && hasPort(n) { // the document says what was defined, not what the network made of it
		n = n.Clone()
		stripPort(n)
	}
	return change, says(said, n), nil
}

// checkHostEnd refuses what n's type of interface cannot have.
func checkHostEnd(said, n *xmltree.Node) error {
	_, err := portconf.ReadBandwidth(said, n.Attr("type") == "network" || hasPort(n))
	if err == nil {
		_, err = portconf.ReadVLAN(said.Clone())
	}
	if err == nil {
		f := said.Clone()
		f.SetAttr("type", n.Attr("type"))
		for _, check := range []func(*xmltree.Node) error{nicIsolated, nicFilter, nicCoalesce} {
			if err = check(f); err != nil {
				break
			}
		}
	}
	if kind := n.Attr("type"); err == nil && said.Child("vlan") != nil && kind != "bridge" && kind != "network" {
		err = virterr.New(virterr.ConfigUnsupported,
			"an interface of type '%s' is requesting a vlan tag, but that is not supported for this type of connection", kind)
	}
	return err
}

// movable reports whether said puts interface n on another bridge.
func movable(n, said *xmltree.Node) bool {
	want, have := said.Child("source").Attr("bridge"), n.Child("source").Attr("bridge")
	return n.Attr("type") == "bridge" && want != "" && have != "" && want != have && !hasPort(n)
}

// SetHostEnd returns the definition in which the host end of the interface with that MAC address is as v says.
func (d *Definition) SetHostEnd(mac string, v *Device) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		for _, nic := range root.Child("devices").All("interface") {
			if nic.Child("mac").Attr("address") == mac {
				setHostEnd(nic, v.node)
				return nil
			}
		}
		return virterr.New(virterr.DeviceMissing, "no device matching MAC address %s found", mac)
	})
}

// setHostEnd makes the host end of interface n what said says of it. A document that names the source is taken as whole: what
// it leaves out is taken away, except what the network or its port group gave.
func setHostEnd(n, said *xmltree.Node) {
	if movable(n, said) {
		n.Child("source").SetAttr("bridge", said.Child("source").Attr("bridge"))
	}
	whole := said.Child("source") != nil
	for _, name := range hostEnd {
		e := said.Child(name)
		switch {
		case e != nil && n.Child(name) != nil:
			n.Child(name).Replace(e.Clone())
		case e != nil:
			n.Append(e.Clone())
		case whole && (n.Attr("type") != "network" && !hasPort(n) || name == "filterref"):
			n.RemoveAll(name)
		}
	}
}
