package domain

import (
	"virtd/domain/xmltree"
	"virtd/virterr"
)

// nicTeaming checks <teaming>: a virtio interface that stays (persistent), and a host device that may go (transient), which the
// guest joins into one because they have the same MAC address.
func (d *Definition) nicTeaming(nic *xmltree.Node) error {
	t := nic.Child("teaming")
	if t == nil || d.opts.Stored {
		return nil
	}
	kind := nic.Attr("type")
	switch {
	case t.Attr("type") == "persistent" && kind == typeHostdev:
		return t.Errorf(virterr.ConfigUnsupported, "teaming type 'persistent' is for interfaces with a virtio device, not for type='hostdev'")
	case t.Attr("type") == "transient" && kind != typeHostdev && kind != "network":
		return t.Errorf(virterr.ConfigUnsupported, "teaming type 'transient' is for host devices, not for interfaces of type '%s'", kind)
	}
	return teaming(t)
}

// teaming checks what the element says by itself.
func teaming(t *xmltree.Node) error {
	switch kind, of := t.Attr("type"), t.Attr("persistent"); {
	case kind == "":
		return t.Errorf(virterr.XMLError, "missing required attribute 'type' in element 'teaming'")
	case kind == "transient" && of == "":
		return t.Errorf(virterr.XMLError, "missing required persistent attribute in teaming element with type='transient'")
	case kind == "persistent" && of != "":
		return t.Errorf(virterr.XMLError, "teaming persistent attribute not allowed if teaming type='persistent'")
	}
	return nil
}
