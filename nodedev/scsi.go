package nodedev

import (
	"fmt"
	"path"
	"strings"

	"virtd/domain/xmltree"
)

// fibreChannel adds what makes a SCSI host one on Fibre Channel, from the class of its own that the kernel has for them.
func (s *sysfs) fibreChannel(n *node) {
	class := "class/fc_host/" + path.Base(n.Path)
	if s.exists(class, "port_name") {
		n.Caps = append(n.Caps, FCHost)
		n.WWNN, n.WWPN = wwn(s.attr(class, "node_name")), wwn(s.attr(class, "port_name"))
	}
	if s.exists(class, "vport_create") {
		n.Caps = append(n.Caps, VPorts)
	}
}

// wwn is a world wide name as libvirt writes it.
func wwn(text string) string { return strings.TrimPrefix(text, "0x") }

func (h *host) describeSCSIHost(n *node, c *xmltree.Node) error {
	name := path.Base(n.Path)
	number, ok := parseNumber(strings.TrimPrefix(name, "host"), 10)
	if !ok {
		return fmt.Errorf("'%s' is not the name of a SCSI host like host0", name)
	}
	c.Append(xmltree.NewText("host", fmt.Sprint(number)))
	if id, ok := h.number("class/scsi_host/"+name, "unique_id", 10); ok {
		c.Append(xmltree.NewText("unique_id", fmt.Sprint(id)))
	}
	class := "class/fc_host/" + name
	if n.Has(FCHost) {
		fc := c.Append(xmltree.New("capability", "type", "fc_host"))
		fc.Append(xmltree.NewText("wwnn", n.WWNN))
		fc.Append(xmltree.NewText("wwpn", n.WWPN))
		if fabric := h.attr(class, "fabric_name"); fabric != "" {
			fc.Append(xmltree.NewText("fabric_wwn", wwn(fabric)))
		}
	}
	if n.Has(VPorts) {
		most, _ := h.number(class, "max_npiv_vports", 10)
		used, _ := h.number(class, "npiv_vports_inuse", 10)
		v := c.Append(xmltree.New("capability", "type", "vport_ops"))
		v.Append(xmltree.NewText("max_vports", fmt.Sprint(most)))
		v.Append(xmltree.NewText("vports", fmt.Sprint(used)))
	}
	return nil
}

func (h *host) describeSCSITarget(n *node, c *xmltree.Node) {
	c.Append(xmltree.NewText("target", path.Base(n.Path)))
}

// scsiTypes are libvirt's words for the kinds of SCSI devices.
var scsiTypes = map[string]string{"0": "disk", "1": "tape", "3": "processor", "4": "worm", "5": "cdrom", "6": "scanner",
	"7": "mod", "8": "changer", "12": "raid", "13": "enclosure"}

func (h *host) describeSCSI(n *node, c *xmltree.Node) error {
	parts := strings.Split(path.Base(n.Path), ":")
	names := []string{"host", "bus", "target", "lun"}
	if len(parts) != len(names) {
		return fmt.Errorf("'%s' is not the name of a SCSI device like 0:0:0:0", path.Base(n.Path))
	}
	for i, name := range names {
		number, ok := parseNumber(parts[i], 10)
		if !ok {
			return fmt.Errorf("'%s' is not the name of a SCSI device like 0:0:0:0", path.Base(n.Path))
		}
		c.Append(xmltree.NewText(name, fmt.Sprint(number)))
	}
	if word := scsiTypes[h.attr(n.Path, "type")]; word != "" {
		c.Append(xmltree.NewText("type", word))
	}
	return nil
}

func (h *host) describeSCSIGeneric(n *node, c *xmltree.Node) {
	c.Append(xmltree.NewText("char", n.devname()))
}
