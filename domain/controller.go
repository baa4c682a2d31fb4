package domain

import (
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// serialControllers gives each virtio console a virtio-serial controller of its own: that is the PCI device.
func (p *places) serialControllers() error {
	owner := map[string]*xmltree.Node{}
	consoles := p.devices.All("console")
	for _, c := range consoles {
		if a := c.Child("address"); c.Child("target").Attr("type") == "virtio" && a.Attr("controller") != "" {
			index := a.Attr("controller")
			if owner[index] != nil && !p.stored {
				return a.Errorf(virterr.ConfigUnsupported, "virtio-serial controller %s already has a console; each has one port", index)
			}
			owner[index] = c
		}
	}
	for _, c := range consoles {
		if c.Child("target").Attr("type") != "virtio" {
			continue
		}
		a := c.Ensure("address")
		if t := a.Attr("type"); t != "" && t != "virtio-serial" && !p.stored {
			return a.Errorf(virterr.ConfigUnsupported, "a virtio console is on a virtio-serial controller, not at an address of type '%s'", t)
		}
		a.SetAttr("type", "virtio-serial")
		if a.Attr("controller") == "" {
			index := 0
			for owner[strconv.Itoa(index)] != nil {
				index++
			}
			owner[strconv.Itoa(index)] = c
			a.SetAttr("controller", strconv.Itoa(index))
		}
		setDefault(a, "bus", "0")
		setDefault(a, "port", "0")
		if p.serialController(a.Attr("controller")) == nil {
			p.devices.Append(xmltree.New("controller", "type", "virtio-serial", "index", a.Attr("controller")))
		}
	}
	return p.idleSerialControllers(owner)
}

func (p *places) idleSerialControllers(owner map[string]*xmltree.Node) error {
	next := 0
	for _, c := range p.devices.All("controller") {
		if c.Attr("type") != "virtio-serial" {
			continue
		}
		setDefault(c, "index", strconv.Itoa(next))
		next++
		if owner[c.Attr("index")] == nil && len(p.devices.All("channel")) > 0 {
			p.idle[c] = true
			continue
		}
		if owner[c.Attr("index")] == nil && !p.stored {
			return c.Errorf(virterr.ConfigUnsupported, "virtio-serial controller %s has no console; remove it", c.Attr("index"))
		}
	}
	return nil
}

func (p *places) serialController(index string) *xmltree.Node {
	for _, c := range p.devices.All("controller") {
		if c.Attr("type") == "virtio-serial" && c.Attr("index") == index {
			return c
		}
	}
	return nil
}

// numberControllers checks the PCI controllers, gives indexes to those without and makes sure of the root.
func (p *places) numberControllers() error {
	taken := map[int]bool{}
	var unnumbered []*xmltree.Node
	for _, c := range p.devices.All("controller") {
		if c.Attr("type") == "" {
			return c.Errorf(virterr.XMLError, "controller without type")
		}
		if c.Attr("type") != "pci" {
			continue
		}
		if err := p.checkController(c); err != nil {
			return err
		}
		text, ok := c.LookupAttr("index")
		if !ok {
			unnumbered = append(unnumbered, c)
			continue
		}
		index, err := strconv.Atoi(text)
		if err != nil || index < 0 || index > maxBus {
			return c.Errorf(virterr.XMLError, "controller index '%s' is not a number from 0 to %d", text, maxBus)
		}
		if taken[index] {
			return c.Errorf(virterr.XMLError, "Multiple 'pci' controllers with index '%d'", index)
		}
		taken[index] = true
		if (index == 0) != p.isRoot(c) {
			return c.Errorf(virterr.XMLError, "pci controller index 0 is the root, every other a root port; got model '%s' with index %d",
				c.Attr("model"), index)
		}
		p.keep(c, index)
	}
	for _, c := range unnumbered {
		index := 0
		for ; !p.isRoot(c) && (index == 0 || taken[index]); index++ {
		}
		if taken[index] {
			return c.Errorf(virterr.XMLError, "Multiple 'pci' controllers with index '%d'", index)
		}
		taken[index] = true
		c.SetAttr("index", strconv.Itoa(index))
		p.keep(c, index)
	}
	if p.root == nil {
		p.root = xmltree.New("controller", "type", "pci", "index", "0", "model", p.rootModel())
		p.devices.InsertAt(0, p.root)
	}
	return nil
}

func (p *places) rootModel() string {
	if p.q35 {
		return "pcie-root"
	}
	return "pci-root"
}

func (p *places) isRoot(c *xmltree.Node) bool { return c.Attr("model") == p.rootModel() }

func (p *places) keep(c *xmltree.Node, index int) {
	if p.isRoot(c) {
		p.root = c
	} else {
		p.setPort(index, c)
	}
}

func (p *places) checkController(c *xmltree.Node) error {
	model := c.Attr("model")
	switch {
	case model == "" && c.Attr("index") == "0":
		c.SetAttr("model", p.rootModel())
	case model == "" && p.q35:
		c.SetAttr("model", "pcie-root-port")
	case model == p.rootModel(), model == "pcie-root-port" && p.q35, p.stored:
	default:
		return c.Errorf(virterr.ConfigUnsupported, "pci controller of model '%s' is not supported on this machine", model)
	}
	if err := p.checkWindows(c); err != nil {
		return err
	}
	for _, attr := range []string{"chassis", "port"} {
		text, ok := c.Child("target").LookupAttr(attr)
		if v, err := strconv.ParseUint(text, 0, 8); ok && !p.stored && (err != nil || attr == "chassis" && v == 0) {
			return c.Errorf(virterr.XMLError, "Invalid target %s '%s' in PCI controller", attr, text)
		}
	}
	if name := c.Child("model").Attr("name"); name != "" && c.Attr("model") != "pcie-root-port" && !p.stored {
		return c.Errorf(virterr.ConfigUnsupported, "pci controller of model '%s' cannot be a '%s'", c.Attr("model"), name)
	}
	return nil
}

// checkWindows checks how much address space a controller is told to have for devices: the 64-bit window of the root, and the
// 32-bit one of a root port.
func (p *places) checkWindows(c *xmltree.Node) error {
	if p.stored {
		return nil
	}
	if hole := c.Child("pcihole64"); hole != nil {
		if !p.isRoot(c) {
			return hole.Errorf(virterr.ConfigUnsupported, "pcihole64 is for the controller of model '%s'", p.rootModel())
		}
		kib, err := readSize(hole)
		if err != nil {
			return err
		}
		if kib < 1<<20 {
			return hole.Errorf(virterr.ConfigUnsupported, "pcihole64 of %d KiB is not supported; use 1 GiB or more", kib)
		}
	}
	const mostReserve = 1 << 20 // KiB: there is no more 32-bit memory for devices
	if text, ok := c.Child("target").LookupAttr("memReserve"); ok {
		if c.Attr("model") != "pcie-root-port" {
			return c.Errorf(virterr.ConfigUnsupported, "memReserve is for controllers of model 'pcie-root-port'")
		}
		if kib, err := strconv.ParseUint(text, 0, 32); err != nil || kib > mostReserve {
			return c.Errorf(virterr.XMLError, "Invalid target memReserve '%s' in PCI controller, must be KiB <= %d", text, mostReserve)
		}
	}
	return nil
}
