package domain

import (
	"fmt"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// PCIAddress is where a PCI device sits: Bus is the index of the controller behind which it is.
type PCIAddress struct {
	Bus, Slot, Function int
}

// String returns the address as lspci and libvirt's messages do.
func (a PCIAddress) String() string {
	return fmt.Sprintf("0000:%02x:%02x.%d", a.Bus, a.Slot, a.Function)
}

// number is the address in 16 bits, as PCI has it: 8 of the bus, 5 of the slot, 3 of the function.
func (a PCIAddress) number() uint16 { return uint16(a.Bus<<8 | a.Slot<<3 | a.Function) }

// numbered returns the address that has a number.
func numbered(n uint16) PCIAddress {
	return PCIAddress{int(n >> 8), int(n >> 3 & maxSlot), int(n & maxFunction)}
}

// ReadPCIAddress reads an <address type='pci'>.
func ReadPCIAddress(n *xmltree.Node) (PCIAddress, error) {
	read := func(attr string, limit int) (int, error) {
		text, ok := n.LookupAttr(attr)
		if !ok {
			return 0, nil
		}
		v, err := strconv.ParseUint(strings.TrimSpace(text), 0, 32)
		if err != nil {
			return 0, n.Errorf(virterr.XMLError, "PCI address: cannot read %s='%s'", attr, text)
		}
		if v > uint64(limit) {
			return 0, n.Errorf(virterr.XMLError, "Invalid PCI address %s='%s', must be <= 0x%x", attr, text, limit)
		}
		return int(v), nil
	}
	var a PCIAddress
	for _, f := range []struct {
		attr  string
		limit int
		to    *int
	}{{"domain", 0, new(int)}, {"bus", maxBus, &a.Bus}, {"slot", maxSlot, &a.Slot}, {"function", maxFunction, &a.Function}} {
		v, err := read(f.attr, f.limit)
		if err != nil {
			return a, err
		}
		*f.to = v
	}
	return a, nil
}

// hexBytes are the numbers below 256 as libvirt prints them, one behind the other.
var hexBytes = func() string {
	var b strings.Builder
	for v := range 256 {
		fmt.Fprintf(&b, "0x%02x", v)
	}
	return b.String()
}()

// hexByte returns the text of a number below 256.
func hexByte(v int) string { return hexBytes[4*v : 4*v+4] }

// writePCIAddress sets a device's address in the form that libvirt prints.
func writePCIAddress(dev *xmltree.Node, a PCIAddress) {
	bus, slot, function := hexByte(a.Bus), hexByte(a.Slot), "0x"+strconv.Itoa(a.Function)
	n := dev.Child("address")
	if n == nil {
		dev.Append(xmltree.New("address", "type", "pci", "domain", "0x0000", "bus", bus, "slot", slot, "function", function))
		return
	}
	n.SetAttr("type", "pci")
	n.SetAttr("domain", "0x0000")
	n.SetAttr("bus", bus)
	n.SetAttr("slot", slot)
	n.SetAttr("function", function)
}
