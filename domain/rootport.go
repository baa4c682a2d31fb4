package domain

import (
	"fmt"
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// port returns the root port of an index, or nil.
func (p *places) port(index int) *xmltree.Node {
	if index >= len(p.ports) {
		return nil
	}
	return p.ports[index]
}

func (p *places) setPort(index int, port *xmltree.Node) {
	if missing := index + 1 - len(p.ports); missing > 0 {
		p.ports = append(p.ports, make([]*xmltree.Node, missing)...)
	}
	p.ports[index] = port
}

// addPortsForGiven adds the root ports that given addresses are behind, and those below them, as libvirt does.
func (p *places) addPortsForGiven() error {
	highest := 0
	for number := range p.used {
		highest = max(highest, numbered(number).Bus)
	}
	for index := 1; index <= highest; index++ {
		if p.port(index) == nil {
			p.addPort(index)
		}
	}
	return nil
}

func (p *places) addPort(index int) *xmltree.Node {
	port := xmltree.New("controller", "type", "pci", "index", strconv.Itoa(index), "model", "pcie-root-port")
	after := 0
	for i, c := range p.devices.Children {
		if c.Is("controller") {
			after = i + 1
		}
	}
	p.devices.InsertAt(after, port)
	p.setPort(index, port)
	return port
}

// placePorts gives root ports without address one, lowest index first.
func (p *places) placePorts() error {
	for _, port := range p.ports {
		if port == nil || port.Child("address") != nil {
			continue
		}
		if err := p.placePort(port); err != nil {
			return err
		}
	}
	return nil
}

// placePort puts a root port on the first function free in a slot of root ports, or into a new slot.
func (p *places) placePort(port *xmltree.Node) error {
	for slot := 1; slot <= maxSlot; slot++ {
		first := p.used[PCIAddress{0, slot, 0}.number()]
		if first != "" && first != rootPort {
			continue
		}
		for f := range maxFunction + 1 {
			a := PCIAddress{0, slot, f}
			if p.used[a.number()] == "" {
				p.used[a.number()] = rootPort
				writePCIAddress(port, a)
				return nil
			}
		}
	}
	return port.Errorf(virterr.ConfigUnsupported, "No more available PCI slots for root port %s", port.Attr("index"))
}

// finishPorts fills in what the guest sees of root ports: model, chassis, port number, and multifunction where several
// share a slot.
func (p *places) finishPorts() {
	shared := map[int]bool{}
	for number := range p.used {
		if a := numbered(number); a.Bus == 0 && a.Function > 0 {
			shared[a.Slot] = true
		}
	}
	for index, port := range p.ports {
		address := port.Child("address")
		if address.Attr("type") != "pci" {
			continue
		}
		a, err := ReadPCIAddress(address)
		if err != nil {
			continue // reserve has refused it
		}
		setDefault(port.Ensure("model"), "name", "pcie-root-port")
		target := port.Ensure("target")
		setDefault(target, "chassis", strconv.Itoa(index))
		setDefault(target, "port", fmt.Sprintf("0x%x", a.Slot<<3|a.Function))
		if a.Function == 0 && shared[a.Slot] {
			address.SetAttr("multifunction", "on")
		}
	}
}
