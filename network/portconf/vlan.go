package portconf

import (
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// VLAN is <vlan>: to which VLANs of a bridge that filters them (IEEE 802.1Q) a port belongs. The zero value is the bridge's
// own choice.
type VLAN struct {
	// Tags are the VLANs. Without Trunk there is one, whose packets the guest sees without a tag; with it the guest sees
	// the tags, except of the Native one.
	Tags  []uint16 `json:"tags,omitempty"`
	Trunk bool     `json:"trunk,omitempty"`
	// Native is the VLAN of the packets that the guest sends without a tag, 0 for none. NativeTagged says that it
	// nevertheless gets them with one.
	Native       uint16 `json:"native,omitempty"`
	NativeTagged bool   `json:"nativeTagged,omitempty"`
}

// Given reports whether there is any tag.
func (v VLAN) Given() bool { return len(v.Tags) > 0 }

// maxTag is the last VLAN that 802.1Q has; 4095 is reserved, and 0 stands for none.
const maxTag = 4094

// ReadVLAN reads n's <vlan>, the zero value where there is none. trunk= is filled in where it follows from the rest, as libvirt
// prints it.
func ReadVLAN(n *xmltree.Node) (v VLAN, err error) {
	n = n.Child("vlan")
	if n == nil {
		return v, nil
	}
	tags := n.All("tag")
	if len(tags) == 0 {
		return v, n.Errorf(virterr.XMLError, "missing tag id - each <vlan> must have at least one <tag id='n'/> subelement")
	}
	for _, t := range tags {
		if err := v.readTag(t); err != nil {
			return v, err
		}
	}
	trunk, given := n.LookupAttr("trunk")
	switch {
	case given && trunk != "yes" && trunk != "no":
		return v, n.Errorf(virterr.XMLError, "invalid \"trunk='%s'\" in <vlan> - must be yes or no", trunk)
	case trunk == "no" && v.Native != 0:
		return v, n.Errorf(virterr.XMLError, "invalid configuration in <vlan> - \"trunk='no'\" is not allowed with a native vlan id")
	case trunk == "no" && len(tags) > 1:
		return v, n.Errorf(virterr.XMLError, "invalid \"trunk='%s'\" in <vlan> - trunk='yes' is required for more than one vlan tag", trunk)
	}
	v.Trunk = trunk == "yes" || v.Native != 0 || len(tags) > 1
	if v.Trunk && !given { // a tree that was read before is not written to
		n.SetAttr("trunk", "yes")
	}
	return v, nil
}

func (v *VLAN) readTag(t *xmltree.Node) error {
	text := t.Attr("id")
	if text == "" {
		return t.Errorf(virterr.XMLError, "missing vlan tag data")
	}
	id, err := strconv.ParseUint(text, 10, 32)
	switch {
	case err != nil:
		return t.Errorf(virterr.XMLError, "vlan tag id '%s' is not a number", text)
	case id > 4095:
		return t.Errorf(virterr.XMLError, "vlan tag id %d too large (maximum 4095)", id)
	case id == 0 || id > maxTag:
		return t.Errorf(virterr.ConfigUnsupported, "vlan tag id %d is not a VLAN of a Linux bridge, which has 1 to %d", id, maxTag)
	}
	v.Tags = append(v.Tags, uint16(id))
	mode, given := t.LookupAttr("nativeMode")
	switch {
	case !given:
		return nil
	case v.Native != 0:
		return t.Errorf(virterr.XMLError, "duplicate native vlan setting")
	case mode != "tagged" && mode != "untagged":
		return t.Errorf(virterr.XMLError, "Invalid \"nativeMode='%s'\" in vlan <tag> - native_mode must be 'tagged' or 'untagged'", mode)
	}
	v.Native, v.NativeTagged = uint16(id), mode == "tagged"
	return nil
}

// Node returns the element, nil where there are no tags.
func (v VLAN) Node() *xmltree.Node {
	if !v.Given() {
		return nil
	}
	out := xmltree.New("vlan")
	if v.Trunk {
		out.SetAttr("trunk", "yes")
	}
	for _, id := range v.Tags {
		t := out.Append(xmltree.New("tag", "id", strconv.Itoa(int(id))))
		if id == v.Native {
			t.SetAttr("nativeMode", map[bool]string{true: "tagged", false: "untagged"}[v.NativeTagged])
		}
	}
	return out
}
