package domain

import (
	"path/filepath"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// checkROMs checks the expansion ROMs of devices: only functions of the host have one.
func (d *Definition) checkROMs(devices *xmltree.Node) error {
	if d.opts.Stored {
		return nil
	}
	for _, dev := range devices.Elements() {
		rom := dev.Child("rom")
		if rom == nil {
			continue
		}
		_, bar := rom.LookupAttr("bar")
		file, hasFile := rom.LookupAttr("file")
		switch {
		case rom.Attr("enabled") == "no" && (bar || hasFile):
			return rom.Errorf(virterr.XMLError, "ROM tuning is not supported when ROM is disabled")
		case !isHostdev(dev) && (rom.Attr("bar") == "on" || hasFile || rom.Attr("enabled") == "yes"):
			return rom.Errorf(virterr.ConfigUnsupported, "<rom> of <%s> is not supported: only devices of the host have a ROM; remove it", dev.Name)
		case hasFile && !filepath.IsAbs(file):
			return rom.Errorf(virterr.XMLError, "rom file '%s' is not an absolute path", file)
		}
	}
	return nil
}

// HostdevROM says what a host device's expansion ROM is: the device's own, that of a file, or none.
func HostdevROM(h *xmltree.Node) (file string, none bool) {
	rom := h.Child("rom")
	if rom.Attr("bar") == "off" || rom.Attr("enabled") == "no" {
		return "", true
	}
	return rom.Attr("file"), false
}
