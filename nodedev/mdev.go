package nodedev

import (
	"path"
	"slices"
	"strconv"

	"virtd/domain/xmltree"
)

// What sysfs says of mediated devices (Documentation/driver-api/vfio-mediated-device.rst of the kernel): a parent offers
// types below mdev_supported_types; a device made of one is a folder in its parent's, named by its UUID.
const (
	supportedTypes = "mdev_supported_types"
	mdevBus        = "bus/mdev/devices"
)

// MdevAttr is an attribute that a mediated device's driver takes, set when the device is made.
type MdevAttr struct {
	Name  string `json:"name"` // below the device's folder; may lead into one of its folders
	Value string `json:"value"`
}

// mdevType is one kind of mediated device that a parent can make.
type mdevType struct {
	id        string
	name      string // "" where the driver gives none
	api       string // how user space drives such a device: vfio-pci, vfio-ccw, vfio-ap
	available uint64 // how many more can be made
}

// mdevTypes are the types that a device can be the parent of, in the order of their ids. Entries of drivers that leave out
// what every type must have are left out too.
func (s *sysfs) mdevTypes(dev string) []mdevType {
	var out []mdevType
	for _, id := range s.list(dev + "/" + supportedTypes) {
		at := dev + "/" + supportedTypes + "/" + id
		available, ok := s.number(at, "available_instances", 10)
		api := s.attr(at, "device_api")
		if !ok || available > 1<<32-1 || api == "" || clean(id) != id {
			continue
		}
		out = append(out, mdevType{id: id, name: s.attr(at, "name"), api: api, available: available})
	}
	return out
}

func (t mdevType) element() *xmltree.Node {
	e := xmltree.New("type", "id", t.id)
	if t.name != "" {
		e.Append(xmltree.NewText("name", t.name))
	}
	e.Append(xmltree.NewText("deviceAPI", t.api))
	e.Append(xmltree.NewText("availableInstances", strconv.FormatUint(t.available, 10)))
	return e
}

// supportedTypes tells what mediated devices a PCI function can make.
func (h *host) supportedTypes(n *node, c *xmltree.Node) {
	types := h.mdevTypes(n.Path)
	if len(types) == 0 {
		return
	}
	list := c.Append(xmltree.New("capability", "type", MdevTypes))
	for _, t := range types {
		list.Append(t.element())
	}
}

// complete reports whether a mediated device has all that it is described by. The kernel tells of it before it has, and
// tells again when a driver has bound to it.
func (s *sysfs) complete(n *node) bool {
	_, err := strconv.ParseUint(s.link(n.Path, "iommu_group"), 10, 32)
	return err == nil && s.link(n.Path, "mdev_type") != ""
}

// describeMdev fills in what a mediated device is.
func (h *host) describeMdev(n *node, c *xmltree.Node) {
	c.Append(xmltree.New("type", "id", clean(h.link(n.Path, "mdev_type"))))
	c.Append(xmltree.NewText("uuid", path.Base(n.Path)))
	c.Append(xmltree.NewText("parent_addr", path.Base(path.Dir(n.Path))))
	c.Append(xmltree.New("iommuGroup", "number", h.link(n.Path, "iommu_group")))
	appendAttrs(c, n.attrs)
}

func appendAttrs(c *xmltree.Node, attrs []MdevAttr) {
	for _, a := range attrs {
		c.Append(xmltree.New("attr", "name", a.Name, "value", a.Value))
	}
}

// mdevParent finds the function at an address. It need not be able to make mediated devices: its driver may not be loaded.
// The caller holds mu.
func (m *Manager) mdevParent(address string) (Device, bool) {
	for _, d := range m.index {
		if d.Kind == PCI && path.Base(d.Path) == address {
			return d, true
		}
	}
	return Device{}, false
}

// typeIDs are the ids of types, for messages.
func typeIDs(types []mdevType) []string {
	ids := make([]string, len(types))
	for i, t := range types {
		ids[i] = t.id
	}
	slices.Sort(ids)
	return ids
}
