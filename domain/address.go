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
	used    map[PCIAddress]string // what is there, for messages
	ports   map[int]*xmltree.Node // root ports by index
	root    *xmltree.Node
	idle    map[*xmltree.Node]bool // controllers that are kept for channels, which are not provided
}

// assignAddresses gives each controller an index and each PCI device an address, in libvirt's order. What has one keeps
// it, so a second run changes nothing.
func (d *Definition) assignAddresses(devices *xmltree.Node) error {
	p := &places{q35: d.IsQ35(), stored: d.opts.Stored, devices: devices,
		used: map[PCIAddress]string{}, ports: map[int]*xmltree.Node{}, idle: map[*xmltree.Node]bool{}}
	for _, step := range []func() error{
		p.serialControllers, p.numberControllers, p.reserveMachine, p.reserveGiven, p.addPortsForGiven, p.placePorts, p.placeDevices,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	p.finishPorts()
	return nil
}

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
		p.ports[index] = c
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

// reserveMachine takes the addresses of the machine's own functions: the host bridge, and the ICH9 at slot 1f or the
// PIIX at slot 1.
func (p *places) reserveMachine() error {
	p.used[PCIAddress{}] = "host bridge"
	slot := 1
	if p.q35 {
		slot = 0x1f
	}
	for f := range maxFunction + 1 {
		p.used[PCIAddress{0, slot, f}] = "machine's chipset"
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
	return append(out, p.devices.All("rng")...)
}

// reserveGiven takes the addresses that the document gives.
func (p *places) reserveGiven() error {
	for index := 1; index <= maxBus; index++ {
		if c := p.ports[index]; c != nil {
			if err := p.reserve(c, true); err != nil {
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
		if err == nil && p.used[a] == "" && (p.q35 || a.Bus == 0) {
			p.used[a] = dev.Name.String()
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
	if p.used[a] != "" {
		return n.Errorf(virterr.XMLError, "Attempted double use of PCI Address %s (%s)", a, p.used[a])
	}
	p.used[a] = dev.Name.String()
	if port {
		p.used[a] = rootPort
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
	case !port && (a.Function != 0 || n.Attr("multifunction") == "on"):
		return n.Errorf(virterr.ConfigUnsupported, "PCI address %s: devices other than root ports are not multifunction", a)
	}
	return nil
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

// writePCIAddress sets a device's address in the form that libvirt prints.
func writePCIAddress(dev *xmltree.Node, a PCIAddress) {
	n := dev.Ensure("address")
	n.SetAttr("type", "pci")
	n.SetAttr("domain", "0x0000")
	n.SetAttr("bus", fmt.Sprintf("0x%02x", a.Bus))
	n.SetAttr("slot", fmt.Sprintf("0x%02x", a.Slot))
	n.SetAttr("function", fmt.Sprintf("0x%x", a.Function))
}

// addPortsForGiven adds the root ports that given addresses are behind, and those below them, as libvirt does.
func (p *places) addPortsForGiven() error {
	highest := 0
	for a := range p.used {
		highest = max(highest, a.Bus)
	}
	for index := 1; index <= highest; index++ {
		if p.ports[index] == nil {
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
	p.ports[index] = port
	return port
}

// placePorts gives root ports without address one, lowest index first.
func (p *places) placePorts() error {
	for index := 1; index <= maxBus; index++ {
		port := p.ports[index]
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
		first := p.used[PCIAddress{0, slot, 0}]
		if first != "" && first != rootPort {
			continue
		}
		for f := range maxFunction + 1 {
			a := PCIAddress{0, slot, f}
			if p.used[a] == "" {
				p.used[a] = rootPort
				writePCIAddress(port, a)
				return nil
			}
		}
	}
	return port.Errorf(virterr.ConfigUnsupported, "No more available PCI slots for root port %s", port.Attr("index"))
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
		p.used[a] = dev.Name.String()
		writePCIAddress(dev, a)
	}
	return nil
}

// free finds a place: on q35 behind the first root port that has nothing behind it, adding one if all are taken; on pc
// the first slot from 2 on.
func (p *places) free(dev *xmltree.Node) (PCIAddress, error) {
	if !p.q35 {
		for slot := 2; slot <= maxSlot; slot++ {
			if a := (PCIAddress{0, slot, 0}); p.used[a] == "" {
				return a, nil
			}
		}
		return PCIAddress{}, dev.Errorf(virterr.ConfigUnsupported, "No more available PCI slots for <%s>", dev.Name)
	}
	for index := 1; index <= maxBus; index++ {
		if p.ports[index] == nil {
			if err := p.placePort(p.addPort(index)); err != nil {
				return PCIAddress{}, err
			}
		}
		if a := (PCIAddress{index, 0, 0}); p.used[a] == "" {
			return a, nil
		}
	}
	return PCIAddress{}, dev.Errorf(virterr.ConfigUnsupported, "No more available PCI slots for <%s>", dev.Name)
}

// finishPorts fills in what the guest sees of root ports: model, chassis, port number, and multifunction where several
// share a slot.
func (p *places) finishPorts() {
	shared := map[int]bool{}
	for a := range p.used {
		if a.Bus == 0 && a.Function > 0 {
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
