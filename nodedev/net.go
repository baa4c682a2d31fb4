package nodedev

import (
	"strconv"

	"virtd/domain/xmltree"
)

// describeNet fills in what a network interface is. The speed is told only of a link that is up: drivers make one up
// otherwise.
func (h *host) describeNet(n *node, c *xmltree.Node) {
	name := n.props["INTERFACE"]
	c.Append(xmltree.NewText("interface", name))
	if address := h.attr(n.Path, "address"); address != "" {
		c.Append(xmltree.NewText("address", address))
	}
	link := c.Append(xmltree.New("link"))
	state := h.attr(n.Path, "operstate")
	if state == "up" {
		if speed, err := strconv.ParseUint(h.attr(n.Path, "speed"), 10, 31); err == nil && speed > 0 {
			link.SetAttr("speed", strconv.FormatUint(speed, 10))
		}
	}
	if state != "" {
		link.SetAttr("state", state)
	}
	if h.features != nil {
		for _, f := range h.features(name) {
			c.Append(xmltree.New("feature", "name", f))
		}
	}
	kind := "80203"
	if n.props["DEVTYPE"] == "wlan" {
		kind = "80211"
	}
	c.Append(xmltree.New("capability", "type", kind))
}
