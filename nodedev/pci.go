package nodedev

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
)

// Address is where a PCI function is.
type Address struct {
	Domain                uint32
	Bus, Device, Function uint8
}

// String is the address as sysfs writes it: 0000:01:00.0.
func (a Address) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Device, a.Function)
}

// ParseAddress reads what String writes.
func ParseAddress(s string) (Address, error) {
	bad := fmt.Errorf("'%s' is not a PCI address like 0000:01:00.0", s)
	domain, rest, ok1 := strings.Cut(s, ":")
	bus, rest, ok2 := strings.Cut(rest, ":")
	device, function, ok3 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || !ok3 {
		return Address{}, bad
	}
	d, err1 := strconv.ParseUint(domain, 16, 32)
	b, err2 := strconv.ParseUint(bus, 16, 8)
	v, err3 := strconv.ParseUint(device, 16, 5)
	f, err4 := strconv.ParseUint(function, 16, 3)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return Address{}, bad
	}
	return Address{uint32(d), uint8(b), uint8(v), uint8(f)}, nil
}

// element is the address as libvirt's documents have it.
func (a Address) element() *xmltree.Node {
	return xmltree.New("address", "domain", fmt.Sprintf("0x%04x", a.Domain), "bus", fmt.Sprintf("0x%02x", a.Bus),
		"slot", fmt.Sprintf("0x%02x", a.Device), "function", fmt.Sprintf("0x%d", a.Function))
}

// describePCI fills in what a PCI function is.
func (h *host) describePCI(n *node, c *xmltree.Node) error {
	a, err := ParseAddress(path.Base(n.Path))
	if err != nil {
		return err
	}
	if class, ok := parseNumber(n.props["PCI_CLASS"], 16); ok {
		c.Append(xmltree.NewText("class", fmt.Sprintf("0x%06x", class)))
	}
	for _, f := range []struct {
		name  string
		value uint64
	}{{"domain", uint64(a.Domain)}, {"bus", uint64(a.Bus)}, {"slot", uint64(a.Device)}, {"function", uint64(a.Function)}} {
		c.Append(xmltree.NewText(f.name, strconv.FormatUint(f.value, 10)))
	}
	vendor, _ := h.number(n.Path, "vendor", 16)
	product, _ := h.number(n.Path, "device", 16)
	vendorName, productName := h.ids.lookup(uint16(vendor), uint16(product))
	c.Append(named("product", product, productName))
	c.Append(named("vendor", vendor, vendorName))
	h.functions(n, c)
	config, _ := h.bytes(configSize, n.Path, "config") // as much as we may read
	switch headerType(config) {
	case headerBridge:
		c.Append(xmltree.New("capability", "type", "pci-bridge"))
	case headerCardBus:
		c.Append(xmltree.New("capability", "type", "cardbus-bridge"))
	}
	h.supportedTypes(n, c)
	if h.hasVPD(n.Path) {
		if v := h.vpd(n.Path); v != nil { // read again: some fields can be written
			c.Append(v.element())
		}
	}
	h.iommuGroup(n, c)
	if numa, ok := h.number(n.Path, "numa_node", 10); ok { // -1: the firmware did not say
		c.Append(xmltree.New("numa", "node", strconv.FormatUint(numa, 10)))
	}
	if e := h.express(n, config); e != nil {
		c.Append(e)
	}
	return nil
}

// named is a number with the name that a database has for it.
func named(element string, id uint64, name string) *xmltree.Node {
	return xmltree.NewText(element, name, "id", fmt.Sprintf("0x%04x", id))
}

// functions tells a virtual function's physical one, and a physical one's virtual ones.
func (h *host) functions(n *node, c *xmltree.Node) {
	if pf, err := ParseAddress(h.link(n.Path, "physfn")); err == nil {
		c.Append(xmltree.New("capability", "type", "phys_function")).Append(pf.element())
	}
	total, _ := h.number(n.Path, "sriov_totalvfs", 10)
	functions := h.virtualFunctions(n.Path)
	if total == 0 && len(functions) == 0 {
		return
	}
	v := c.Append(xmltree.New("capability", "type", "virt_functions"))
	if total > 0 {
		v.SetAttr("maxCount", strconv.FormatUint(total, 10))
	}
	for _, f := range functions {
		v.Append(f.element())
	}
}

// virtualFunctions are those that exist now, in the order of their numbers.
func (s *sysfs) virtualFunctions(dev string) []Address {
	byNumber := map[int]Address{}
	for _, name := range s.list(dev) {
		number, ok := strings.CutPrefix(name, "virtfn")
		if !ok {
			continue
		}
		i, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		if a, err := ParseAddress(s.link(dev, name)); err == nil {
			byNumber[i] = a
		}
	}
	numbers := make([]int, 0, len(byNumber))
	for i := range byNumber {
		numbers = append(numbers, i)
	}
	slices.Sort(numbers)
	out := make([]Address, len(numbers))
	for i, n := range numbers {
		out[i] = byNumber[n]
	}
	return out
}

// iommuGroup tells which functions the IOMMU cannot keep apart from this one.
func (h *host) iommuGroup(n *node, c *xmltree.Node) {
	number, err := strconv.ParseUint(h.link(n.Path, "iommu_group"), 10, 32)
	if err != nil {
		return
	}
	g := xmltree.New("iommuGroup", "number", strconv.FormatUint(number, 10))
	for _, name := range h.list(n.Path + "/iommu_group/devices") {
		if a, err := ParseAddress(name); err == nil {
			g.Append(a.element())
		}
	}
	if len(g.Children) > 0 { // a group may hold devices that are not PCI
		c.Append(g)
	}
}
