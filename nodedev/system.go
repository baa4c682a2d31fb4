package nodedev

import "virtd/domain/xmltree"

// dmi is where the kernel shows the firmware's tables. The serial number is for root only.
const dmi = "devices/virtual/dmi/id"

// describeSystem fills in what the computer is.
func (h *host) describeSystem(c *xmltree.Node) {
	fields := func(to *xmltree.Node, pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			if value := h.attr(dmi, pairs[i+1]); value != "" {
				to.Append(xmltree.NewText(pairs[i], value))
			}
		}
	}
	fields(c, "product", "product_name")
	hardware := c.Append(xmltree.New("hardware"))
	fields(hardware, "vendor", "sys_vendor", "version", "product_version", "serial", "product_serial")
	hardware.Append(xmltree.NewText("uuid", h.uuid))
	fields(c.Append(xmltree.New("firmware")), "vendor", "bios_vendor", "version", "bios_version", "release_date", "bios_date")
}
