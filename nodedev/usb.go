package nodedev

import (
	"cmp"
	"fmt"

	"virtd/domain/xmltree"
)

func (h *host) describeUSBDevice(n *node, c *xmltree.Node) {
	for _, f := range []struct{ element, prop string }{{"bus", "BUSNUM"}, {"device", "DEVNUM"}} {
		number, _ := parseNumber(n.props[f.prop], 10) // with leading zeros
		c.Append(xmltree.NewText(f.element, fmt.Sprint(number)))
	}
	product, _ := h.number(n.Path, "idProduct", 16)
	vendor, _ := h.number(n.Path, "idVendor", 16)
	c.Append(named("product", product, cmp.Or(n.props["ID_MODEL_FROM_DATABASE"], h.attr(n.Path, "product"))))
	c.Append(named("vendor", vendor, cmp.Or(n.props["ID_VENDOR_FROM_DATABASE"], h.attr(n.Path, "manufacturer"))))
}

func (h *host) describeUSB(n *node, c *xmltree.Node) {
	for _, f := range []struct{ element, attr string }{
		{"number", "bInterfaceNumber"}, {"class", "bInterfaceClass"}, {"subclass", "bInterfaceSubClass"}, {"protocol", "bInterfaceProtocol"},
	} {
		number, _ := h.number(n.Path, f.attr, 16)
		c.Append(xmltree.NewText(f.element, fmt.Sprint(number)))
	}
}
