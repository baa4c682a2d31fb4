package nodedev

import (
	"path"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
)

// storage finds out what a disk is, and reports whether it is one that is listed: device mapper, loop devices and RAM disks
// are not. udevd knows best; without it, what sysfs has is put together as udevd's rules do.
func (s *sysfs) storage(n *node) bool {
	n.links = s.database("b"+n.props["MAJOR"]+":"+n.props["MINOR"], n.props)
	name := path.Base(n.Path)
	kind := n.props["ID_TYPE"]
	if kind == "" || kind == "generic" {
		switch {
		case n.props["ID_DRIVE_FLOPPY"] == "1":
			kind = "floppy"
		case n.props["ID_CDROM"] == "1":
			kind = "cd"
		case n.props["ID_DRIVE_FLASH_SD"] == "1", strings.HasPrefix(name, "mmcblk"):
			kind = "sd"
		case strings.HasPrefix(name, "vd"), strings.HasPrefix(name, "nvme"):
			kind = "disk"
		default:
			kind = map[string]string{"0": "disk", "14": "disk", "5": "cd"}[s.scsiType(n.Path)]
		}
	}
	n.props["ID_TYPE"] = kind
	if n.props["ID_SERIAL"] == "" {
		n.props["ID_SERIAL"] = s.serial(n.Path, name)
	}
	switch kind {
	case "disk", "sd", "cd", "floppy":
		return n.devname() != ""
	}
	return false
}

// scsiType is the number of a SCSI disk's kind.
func (s *sysfs) scsiType(dev string) string {
	if s.link(dev, "device/subsystem") != "scsi" {
		return ""
	}
	return s.attr(dev, "device/type")
}

// serial is what udevd's rules make of a disk's serial number.
func (s *sysfs) serial(dev, name string) string {
	switch {
	case strings.HasPrefix(name, "vd"):
		return underscores(s.attr(dev, "serial"))
	case strings.HasPrefix(name, "nvme"):
		if number := s.attr(dev, "device/serial"); number != "" {
			return underscores(s.attr(dev, "device/model") + " " + number)
		}
	}
	return ""
}

func underscores(s string) string { return strings.Join(strings.Fields(s), "_") }

// describeStorage fills in what a disk is.
func (h *host) describeStorage(n *node, c *xmltree.Node) {
	kind := n.props["ID_TYPE"]
	removable := false
	media := true
	switch kind {
	case "cd":
		kind = "cdrom"
		removable = h.attr(n.Path, "removable") == "1"
		media = n.props["ID_CDROM_MEDIA"] == "1"
	case "floppy":
		removable = h.attr(n.Path, "removable") == "1"
		media = n.props["ID_FS_LABEL"] != "" || n.props["DKD_MEDIA_AVAILABLE"] == "1"
	}
	for _, f := range []struct{ name, value string }{
		{"block", n.devname()}, {"bus", n.props["ID_BUS"]}, {"drive_type", kind}, {"model", h.attr(n.Path, "device/model")},
		{"vendor", h.vendor(n)}, {"serial", n.props["ID_SERIAL"]},
	} {
		if f.value != "" {
			c.Append(xmltree.NewText(f.name, f.value))
		}
	}
	size := h.blocks(n)
	if !removable {
		size.append(c, "size")
		return
	}
	r := c.Append(xmltree.New("capability", "type", "removable"))
	if !media {
		size = blocks{}
	}
	r.Append(xmltree.NewText("media_available", map[bool]string{true: "1", false: "0"}[media]))
	at := len(r.Children)
	size.append(r, "media_size")
	if label := n.props["ID_FS_LABEL"]; media && label != "" {
		r.InsertAt(at+1, xmltree.NewText("media_label", label))
	}
}

// vendor is a SCSI disk's; the same file of a virtio disk has the number of the PCI vendor, which libvirt tells as it is.
func (h *host) vendor(n *node) string { return h.attr(n.Path, "device/vendor") }

// blocks is the size of a disk.
type blocks struct{ bytes, block uint64 }

// blocks reads it: the kernel counts in units of 512 bytes whatever the block's size is.
func (h *host) blocks(n *node) blocks {
	sectors, _ := h.number(n.Path, "size", 10)
	block, _ := h.number(n.Path, "queue/logical_block_size", 10)
	return blocks{sectors * 512, block}
}

func (b blocks) append(to *xmltree.Node, name string) {
	to.Append(xmltree.NewText(name, strconv.FormatUint(b.bytes, 10)))
	if b.block > 0 {
		to.Append(xmltree.NewText("logical_block_size", strconv.FormatUint(b.block, 10)))
		to.Append(xmltree.NewText("num_blocks", strconv.FormatUint(b.bytes/b.block, 10)))
	}
}
