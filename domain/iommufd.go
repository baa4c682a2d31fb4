package domain

import (
	"virtd/domain/xmltree"
	"virtd/virterr"
)

// UsesIOMMUFD reports whether a host device of the domain goes through iommufd, and not through VFIO's container and group: its
// own <driver iommufd='yes|no'/> says, else <iommufd enabled='yes|no'/> of the domain, else it does not, as with libvirt.
func (d *Definition) UsesIOMMUFD(h *xmltree.Node) bool { return usesIOMMUFD(d.doc.Root, h) }

func usesIOMMUFD(root, h *xmltree.Node) bool {
	if own := h.Child("driver").Attr("iommufd"); own != "" {
		return own == "yes"
	}
	return root.Child("iommufd").Attr("enabled") == "yes"
}

// readIOMMUFD checks what a document says of iommufd: the functions of a domain share one address space, so it is for all of
// them or for none.
func (d *Definition) readIOMMUFD(devices *xmltree.Node) error {
	root := d.doc.Root
	if d.opts.Stored {
		return nil
	}
	if n := root.Child("iommufd"); n != nil && n.Attr("enabled") == "" {
		return n.Errorf(virterr.XMLError, "Missing required attribute 'enabled' in element 'iommufd'")
	}
	list := hostdevs(devices)
	for _, h := range list {
		if usesIOMMUFD(root, h) != usesIOMMUFD(root, list[0]) {
			return h.Errorf(virterr.ConfigUnsupported, "some host devices of the domain use iommufd and some do not, which is not supported: they share "+
				"one address space; set iommufd in the <driver> of all of them alike, or leave it to <iommufd enabled='yes'/> of the domain")
		}
	}
	return nil
}

// nameHostdevDriver says in a running domain what a host device's driver is, as libvirt does, and whether it uses iommufd.
func nameHostdevDriver(root, h *xmltree.Node) {
	driver := h.Ensure("driver")
	setDefault(driver, "name", "vfio")
	if usesIOMMUFD(root, h) {
		setDefault(driver, "iommufd", "yes")
	}
}
