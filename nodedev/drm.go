package nodedev

import (
	"path"
	"strings"

	"virtd/domain/xmltree"
)

// describeDRM tells what a graphics device's node is for. Its name says so; the ranges of minor numbers, which libvirt goes
// by, overlap since the kernel gives out more than 64 of a kind.
func (h *host) describeDRM(n *node, c *xmltree.Node) {
	kind := "primary"
	switch name := path.Base(n.Path); {
	case strings.HasPrefix(name, "renderD"):
		kind = "render"
	case strings.HasPrefix(name, "controlD"):
		kind = "control"
	}
	c.Append(xmltree.NewText("type", kind))
}
