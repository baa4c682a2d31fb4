package nodedev

import (
	"fmt"
	"slices"

	"virtd/domain/xmltree"
)

// host describes the devices that sysfs shows.
type host struct {
	*sysfs
	ids      *pciIDs
	uuid     string
	features func(string) []string
}

// describe returns the document of a device, elements and attributes in libvirt's order.
func (h *host) describe(n *node) (*xmltree.Node, error) {
	root := xmltree.New("device")
	root.Append(xmltree.NewText("name", n.Name))
	if n.Kind != System {
		root.Append(xmltree.NewText("path", "/sys/"+n.Path))
		if node := n.devname(); node != "" {
			root.Append(xmltree.NewText("devnode", node, "type", "dev"))
		}
		for _, l := range slices.Compact(n.links) {
			root.Append(xmltree.NewText("devnode", l, "type", "link"))
		}
		root.Append(xmltree.NewText("parent", h.parent(n.Path)))
	}
	if driver := n.props["DRIVER"]; driver != "" {
		root.Append(xmltree.New("driver")).Append(xmltree.NewText("name", driver))
	}
	c := root.Append(xmltree.New("capability", "type", string(n.Kind)))
	if err := h.capability(n, c); err != nil {
		return nil, fmt.Errorf("describe %s at /sys/%s: %w", n.Name, n.Path, err)
	}
	return root, nil
}

func (h *host) capability(n *node, c *xmltree.Node) error {
	switch n.Kind {
	case System:
		h.describeSystem(c)
	case PCI:
		return h.describePCI(n, c)
	case USBDevice:
		h.describeUSBDevice(n, c)
	case USB:
		h.describeUSB(n, c)
	case Net:
		h.describeNet(n, c)
	case SCSIHost:
		return h.describeSCSIHost(n, c)
	case SCSITarget:
		h.describeSCSITarget(n, c)
	case SCSI:
		return h.describeSCSI(n, c)
	case Storage:
		h.describeStorage(n, c)
	case SCSIGeneric:
		h.describeSCSIGeneric(n, c)
	case DRM:
		h.describeDRM(n, c)
	case Mdev:
		h.describeMdev(n, c)
	}
	return nil
}
