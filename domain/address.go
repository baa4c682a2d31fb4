package domain

import (
	"virtd/domain/xmltree"
	"virtd/virterr"
)

const (
	maxBus      = 255
	maxSlot     = 0x1f
	maxFunction = 7

	rootPort = "root port" // in places.used
)

// places is the PCI layout of one domain under construction.
type places struct {
	q35     bool
	stored  bool
	devices *xmltree.Node
	used    map[uint16]string // what is at an address (its number), for messages
	ports   []*xmltree.Node   // root ports by index, nil where there is none; see port
	root    *xmltree.Node
	idle    map[*xmltree.Node]bool // controllers that are kept for channels, which are not provided
}

// assignAddresses gives each controller an index and each PCI device an address, in libvirt's order. What has one keeps
// it, so a second run changes nothing.
func (d *Definition) assignAddresses(devices *xmltree.Node) error {
	p := &places{q35: d.IsQ35(), stored: d.opts.Stored, devices: devices,
		used: make(map[uint16]string, 32), idle: map[*xmltree.Node]bool{}}
	for _, step := range []func() error{
		p.serialControllers, p.numberControllers, p.reserveMachine, p.reserveGiven, p.addPortsForGiven, p.placePorts, p.placeDevices,
		p.markMultifunction,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	p.finishPorts()
	return nil
}

// reserveMachine takes the addresses of the machine's own functions: the host bridge, and the ICH9 at slot 1f or the
// PIIX at slot 1.
func (p *places) reserveMachine() error {
	p.used[PCIAddress{}.number()] = "host bridge"
	slot := 1
	if p.q35 {
		slot = 0x1f
	}
	for f := range maxFunction + 1 {
		p.used[PCIAddress{0, slot, f}.number()] = "machine's chipset"
	}
	return nil
}

// pciDevices returns the devices that need a PCI address, in the order in which libvirt gives them out.
func (p *places) pciDevices() []*xmltree.Node {
	var out []*xmltree.Node
	out = append(out, p.devices.All("interface")...)
	for _, c := range p.devices.All("controller") {
		if c.Attr("type") == "virtio-serial" && !p.idle[c] {
			out = append(out, c)
		}
	}
	out = append(out, p.devices.All("disk")...)
	out = append(out, p.devices.All("hostdev")...)
	for _, b := range p.devices.All("memballoon") {
		if b.Attr("model") != "none" {
			out = append(out, b)
		}
	}
	out = append(out, p.devices.All("rng")...)
	for _, in := range p.devices.All("input") {
		if IsKeyboard(in) {
			out = append(out, in)
		}
	}
	return out
}

// reserveGiven takes the addresses that the document gives.
func (p *places) reserveGiven() error {
	for _, port := range p.ports {
		if port != nil {
			if err := p.reserve(port, true); err != nil {
				return err
			}
		}
	}
	for _, dev := range p.pciDevices() {
		if err := p.reserve(dev, false); err != nil {
			return err
		}
	}
	p.reserveKept()
	return nil
}

// reserveKept leaves alone the addresses of devices that are kept without being provided, so that the others have the
// places that libvirt gave them.
func (p *places) reserveKept() {
	for _, dev := range p.devices.Elements() {
		n := dev.Child("address")
		if n.Attr("type") != "pci" {
			continue
		}
		a, err := ReadPCIAddress(n)
		if err == nil && p.used[a.number()] == "" && (p.q35 || a.Bus == 0) {
			p.used[a.number()] = dev.Name.String()
		}
	}
}

func (p *places) reserve(dev *xmltree.Node, port bool) error {
	n := dev.Child("address")
	if n == nil {
		return nil
	}
	if t := n.Attr("type"); t != "pci" {
		if p.stored {
			return nil
		}
		return n.Errorf(virterr.ConfigUnsupported, "<%s> needs an address of type 'pci', not '%s'", dev.Name, t)
	}
	a, err := ReadPCIAddress(n)
	if err != nil {
		return err
	}
	if a == (PCIAddress{}) { // libvirt takes this for "assign one"
		dev.RemoveAll("address")
		return nil
	}
	if err := p.allowed(n, a, port); err != nil {
		return err
	}
	if p.used[a.number()] != "" {
		return n.Errorf(virterr.XMLError, "Attempted double use of PCI Address %s (%s)", a, p.used[a.number()])
	}
	p.used[a.number()] = dev.Name.String()
	if port {
		p.used[a.number()] = rootPort
	}
	writePCIAddress(dev, a)
	return nil
}

// allowed checks that a device can be at an address.
func (p *places) allowed(n *xmltree.Node, a PCIAddress, port bool) error {
	switch {
	case p.stored:
		return nil
	case !p.q35 && a.Bus != 0:
		return n.Errorf(virterr.ConfigUnsupported, "PCI address %s: this machine has only bus 0", a)
	case port && a.Bus != 0:
		return n.Errorf(virterr.ConfigUnsupported, "PCI address %s: a root port is on bus 0", a)
	case a.Bus != 0 && a.Slot != 0:
		return n.Errorf(virterr.XMLError, "Invalid PCI address %s. slot must be <= 0 behind a root port", a)
	}
	return nil
}

// placeDevices gives every device without address one.
func (p *places) placeDevices() error {
	for _, dev := range p.pciDevices() {
		if dev.Child("address") != nil {
			continue
		}
		a, err := p.free(dev)
		if err != nil {
			return err
		}
		p.used[a.number()] = dev.Name.String()
		writePCIAddress(dev, a)
	}
	return nil
}

// free finds a place: on q35 behind the first root port that has nothing behind it, adding one if all are taken; on pc
// the first slot from 2 on.
func (p *places) free(dev *xmltree.Node) (PCIAddress, error) {
	if !p.q35 {
		for slot := 2; slot <= maxSlot; slot++ {
			if a := (PCIAddress{0, slot, 0}); p.vacant(a) {
				return a, nil
			}
		}
		return PCIAddress{}, dev.Errorf(virterr.ConfigUnsupported, "No more available PCI slots for <%s>", dev.Name)
	}
	for index := 1; index <= maxBus; index++ {
		if p.port(index) == nil {
			if err := p.placePort(p.addPort(index)); err != nil {
				return PCIAddress{}, err
			}
		}
		if a := (PCIAddress{index, 0, 0}); p.vacant(a) {
			return a, nil
		}
	}
	return PCIAddress{}, dev.Errorf(virterr.ConfigUnsupported, "No more available PCI slots for <%s>", dev.Name)
}

// markMultifunction sets multifunction on the first function of a slot that has others, as libvirt does: a guest does not look
// for them without.
func (p *places) markMultifunction() error {
	for _, dev := range p.pciDevices() {
		n := dev.Child("address")
		if n.Attr("type") != "pci" || p.stored {
			continue
		}
		a, err := ReadPCIAddress(n)
		if err != nil {
			return err
		}
		if first := (PCIAddress{a.Bus, a.Slot, 0}); a.Function != 0 && p.used[first.number()] == "" {
			return n.Errorf(virterr.ConfigUnsupported, "PCI address %s: a guest does not find it without a device at %s", a, first)
		}
		if a.Function != 0 || !p.shared(a) {
			continue
		}
		if n.Attr("multifunction") == "off" {
			return n.Errorf(virterr.ConfigUnsupported, "PCI address %s: multifunction is off, and its slot has other functions", a)
		}
		n.SetAttr("multifunction", "on")
	}
	return nil
}

// vacant reports whether there is nothing in the slot of an address.
func (p *places) vacant(a PCIAddress) bool { return p.used[a.number()] == "" && !p.shared(a) }

// shared reports whether the slot of an address has other functions.
func (p *places) shared(a PCIAddress) bool {
	for f := range maxFunction + 1 {
		if f != a.Function && p.used[PCIAddress{a.Bus, a.Slot, f}.number()] != "" {
			return true
		}
	}
	return false
}
