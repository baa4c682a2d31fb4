package domain

import (
	"strconv"

	"virtd/domain/xmltree"
)

// assignAliases names every device as libvirt does in a running domain. Names that the user chose (ua-...) stay.
func assignAliases(root *xmltree.Node) {
	devices := root.Child("devices")
	next := map[string]int{}
	taken := map[string]bool{}
	serial0 := ""
	for _, dev := range devices.Elements() {
		alias := aliasOf(dev, next)
		if alias == "" {
			continue
		}
		for dev.Is("disk") && taken[alias] { // vda and sda are both number 0
			next["virtio-disk"]++
			alias = "virtio-disk" + strconv.Itoa(next["virtio-disk"]-1)
		}
		if a := dev.Child("alias"); a.Attr("name") != "" {
			alias = a.Attr("name")
		}
		taken[alias] = true
		if dev.Is("serial") && serial0 == "" {
			serial0 = alias
		}
		if dev.Is("console") && dev.Child("target").Attr("type") == "serial" {
			alias = serial0
		}
		dev.Ensure("alias").SetAttr("name", alias)
	}
}

// aliasOf returns libvirt's name for a device, counting per kind in next, or "" for what has none.
func aliasOf(dev *xmltree.Node, next map[string]int) string {
	count := func(prefix string) string {
		n := next[prefix]
		next[prefix]++
		return prefix + strconv.Itoa(n)
	}
	if dev.Name.Prefix != "" {
		return ""
	}
	switch dev.Name.Local {
	case "disk":
		return "virtio-disk" + strconv.Itoa(diskIndex(dev.Child("target").Attr("dev")))
	case "controller":
		return controllerAlias(dev)
	case "interface":
		if dev.Attr("type") == typeHostdev {
			return count("hostdev")
		}
		return count("net")
	case "memballoon":
		if dev.Attr("model") == "none" {
			return ""
		}
		return count("balloon")
	case "serial", "console", "rng", "input", "video", "panic", "hostdev":
		return count(dev.Name.Local)
	}
	return ""
}

func controllerAlias(c *xmltree.Node) string {
	index := c.Attr("index")
	switch {
	case c.Attr("model") == "pcie-root":
		return "pcie.0"
	case c.Attr("type") == "pci":
		return "pci." + index
	case c.Attr("model") == "none":
		return "" // says that there is no such controller
	}
	return c.Attr("type") + index
}

// diskIndex returns the number of a disk name: 0 for vda, 26 for vdaa.
func diskIndex(name string) int {
	for _, prefix := range []string{"xvd", "ubd", "fd", "hd", "vd", "sd"} {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			name = name[len(prefix):]
			break
		}
	}
	index := 0
	for _, c := range name {
		if c < 'a' || c > 'z' {
			break
		}
		index = index*26 + int(c-'a') + 1
	}
	return index - 1
}
