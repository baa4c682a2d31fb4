package nodedev

import (
	"path"
	"slices"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// mdevDefinition is what a document says of a mediated device.
type mdevDefinition struct {
	UUID   string     `json:"uuid"`   // in lower case, with dashes
	Parent string     `json:"parent"` // what sysfs calls the parent: a PCI address
	Type   string     `json:"type"`
	Attrs  []MdevAttr `json:"attrs,omitempty"` // in the order in which they are set
}

// name is the node device's.
func (d mdevDefinition) name() string { return deviceName("mdev", d.UUID, d.Parent) }

// capabilityNames are the types that a <capability> of a device may have.
var capabilityNames = []string{"system", "pci", "usb_device", "usb", "net", "scsi_host", "scsi_target", "scsi", "storage", "fc_host",
	"vports", "scsi_generic", "drm", "mdev_types", "mdev", "ccw", "css", "vdpa", "ap_card", "ap_queue", "ap_matrix", "vpd"}

// nodeError is an error about node devices.
func nodeError(code virterr.Code, format string, args ...any) error {
	return virterr.NewFrom(virterr.FromNodeDev, code, format, args...)
}

func unsupportedType() error { return nodeError(virterr.ConfigUnsupported, "Unsupported device type") }

// parseMdev reads a <device> that shall be made or defined. Only mediated devices can be. strict refuses words that have no
// meaning there; they are ignored else, as is the name, which follows from the rest. A missing UUID is made up.
func (m *Manager) parseMdev(text string, strict bool) (mdevDefinition, error) {
	var d mdevDefinition
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return d, err
	}
	root := doc.Root
	if !root.Is("device") {
		return d, nodeError(virterr.XMLError, "unexpected root element <%s>, expecting <device>", root.Name)
	}
	capability, err := mdevCapability(root)
	if err != nil {
		return d, err
	}
	if strict {
		if err := onlyKnown(root, capability); err != nil {
			return d, err
		}
	}
	if err := d.read(capability); err != nil {
		return d, err
	}
	d.Parent, err = m.parentAddress(root.Child("parent").Trimmed())
	return d, err
}

// mdevCapability finds the element that describes the mediated device.
func mdevCapability(root *xmltree.Node) (*xmltree.Node, error) {
	list := root.All("capability")
	if len(list) == 0 {
		return nil, nodeError(virterr.InternalError, "no device capabilities for 'new device'")
	}
	var found *xmltree.Node
	for _, c := range list {
		kind, ok := c.LookupAttr("type")
		if !ok {
			return nil, nodeError(virterr.XMLError, "Missing required attribute 'type' in element 'capability'")
		}
		if !slices.Contains(capabilityNames, kind) {
			return nil, nodeError(virterr.XMLError, "Invalid value for attribute 'type' in element 'capability': '%s'.", kind)
		}
		if kind == string(Mdev) && found == nil {
			found = c
		}
	}
	if found == nil {
		return nil, unsupportedType()
	}
	return found, nil
}

// read fills in what the capability says.
func (d *mdevDefinition) read(c *xmltree.Node) error {
	if d.Type = c.Child("type").Attr("id"); d.Type == "" {
		return nodeError(virterr.ConfigUnsupported, "missing type id attribute for 'new device'")
	}
	d.UUID = uuid.NewString()
	if text := c.Child("uuid").Trimmed(); text != "" {
		id, err := uuid.Parse(text)
		if err != nil {
			return nodeError(virterr.InternalError, "Invalid uuid '%s' for new mdev device", text)
		}
		d.UUID = id.String()
	}
	for _, a := range c.All("attr") {
		attr := MdevAttr{Name: a.Attr("name"), Value: a.Attr("value")}
		if attr.Name == "" || attr.Value == "" {
			return nodeError(virterr.ConfigUnsupported, "mdev attribute missing name or value")
		}
		d.Attrs = append(d.Attrs, attr)
	}
	return nil
}

// parentAddress returns what sysfs calls the device that a document names as the parent.
func (m *Manager) parentAddress(name string) (string, error) {
	if name == "" {
		return "", nodeError(virterr.ConfigUnsupported, "missing parent device")
	}
	parent, err := m.Lookup(name)
	if err != nil {
		return "", nodeError(virterr.ConfigUnsupported, "invalid parent device '%s'", name)
	}
	if parent.Kind != PCI {
		return "", nodeError(virterr.ParseFailed, "Unable to find address for parent device '%s'", name)
	}
	return path.Base(parent.Path), nil
}

// onlyKnown refuses elements that libvirt's schema does not have.
func onlyKnown(root, capability *xmltree.Node) error {
	for parent, known := range map[*xmltree.Node][]string{
		root:       {"name", "path", "devnode", "parent", "driver", "capability"},
		capability: {"type", "uuid", "parent_addr", "iommuGroup", "attr"},
	} {
		for _, e := range parent.Elements() {
			if !slices.Contains(known, e.Name.String()) {
				return e.Errorf(virterr.XMLInvalidSchema, "element '%s' has no place in '%s'", e.Name, parent.Name)
			}
		}
	}
	return nil
}

// document describes a definition.
func (d mdevDefinition) document(parent string) *xmltree.Node {
	root := xmltree.New("device")
	root.Append(xmltree.NewText("name", d.name()))
	root.Append(xmltree.NewText("parent", parent))
	c := root.Append(xmltree.New("capability", "type", string(Mdev)))
	c.Append(xmltree.New("type", "id", d.Type))
	c.Append(xmltree.NewText("uuid", d.UUID))
	c.Append(xmltree.NewText("parent_addr", d.Parent))
	appendAttrs(c, d.Attrs)
	return root
}
