package domain

import (
	"slices"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// SparePorts is how many root ports without a device a q35 domain starts with at least, so that devices can be attached
// while it runs. A definition with more has them all; what is added is not part of the stored definition.
const SparePorts = 4

// liveKinds are the kinds of devices that a running domain can get and lose.
var liveKinds = []string{"disk", "interface", "rng", "hostdev"}

func (v *Device) checkLive(verb string) error {
	if !slices.Contains(liveKinds, v.Kind()) {
		return virterr.New(virterr.OperationUnsupported, "live %s of device '%s' is not supported", verb, v.Kind())
	}
	return nil
}

// Complete fills in what a device must have the same in the configuration and in the running domain: the MAC address of an
// interface.
func (v *Device) Complete() error {
	if v.Kind() != "interface" || v.MAC() != "" {
		return nil
	}
	mac, err := newMAC()
	if err == nil {
		v.node.Ensure("mac").SetAttr("address", mac)
	}
	return err
}

// AttachLive returns the definition of a running domain with one more device, and the alias that the device got. The
// address is chosen if the document has none; there are no more places than the machine started with.
func (d *Definition) AttachLive(v *Device) (live *Definition, alias string, err error) {
	if err := v.checkLive("attach"); err != nil {
		return nil, "", err
	}
	node := v.node.Clone()
	stripLiveDevice(node)
	devices := d.doc.Root.Child("devices")
	if other := d.disk(d.doc.Root, v.diskTarget()); v.diskTarget() != "" && other != nil {
		return nil, "", virterr.New(virterr.XMLError, "target '%s' duplicated for disk sources '%s' and '%s'",
			v.diskTarget(), sourceText(other), sourceText(node))
	}
	if isHostdev(node) {
		at, err := HostdevAddress(node)
		if err != nil {
			return nil, "", err
		}
		if hostdevAt(devices, at) != nil {
			return nil, "", virterr.New(virterr.OperationFailed, "target pci device %s already exists", at)
		}
		nameHostdevDriver(d.doc.Root, node)
	}
	if alias = node.Child("alias").Attr("name"); alias == "" {
		alias = freeAlias(devices, node)
		node.Ensure("alias").SetAttr("name", alias)
	} else if byAlias(devices, alias) != nil {
		return nil, "", virterr.New(virterr.XMLError, "non unique alias detected: %s", alias)
	}
	if err := d.checkPlace(node); err != nil {
		return nil, "", err
	}
	doc := d.doc.Clone()
	doc.Root.Child("devices").Append(node)
	opts := d.opts
	opts.Validate, opts.Stored = false, false
	live, err = build(doc, opts)
	return live, alias, err
}

// stripLiveDevice is stripLive for one device that stands alone.
func stripLiveDevice(dev *xmltree.Node) {
	root := xmltree.New("domain")
	root.Ensure("devices").Append(dev)
	stripLive(root)
	dev.Remove()
}

// checkPlace refuses a device for which a running machine has no place.
func (d *Definition) checkPlace(dev *xmltree.Node) error {
	p, err := d.layout()
	if err != nil {
		return err
	}
	a := dev.Child("address")
	if at, err := ReadPCIAddress(a); a == nil || a.Attr("type") == "pci" && err == nil && at == (PCIAddress{}) {
		if len(p.freePlaces()) == 0 {
			return virterr.New(virterr.InternalError, "No more available PCI slots")
		}
		return nil
	} else if err == nil && at.Function != 0 {
		return virterr.New(virterr.InternalError, "Only PCI device addresses with function=0 are supported")
	} else if err != nil || a.Attr("type") != "pci" || !p.q35 {
		return err // what else is wrong with it is said when the definition is built
	} else if at.Bus == 0 {
		return virterr.New(virterr.XMLError, "PCI bus is not compatible with the device at %s. Device requires hot-plug "+
			"capability, which is not provided by bus 0000:00", at)
	} else if p.port(at.Bus) == nil {
		highest := max(0, len(p.ports)-1)
		return virterr.New(virterr.XMLError, "Invalid PCI address %s. Only PCI buses up to %d are available", at, highest)
	}
	return nil
}

// layout reads the PCI layout of a complete definition.
func (d *Definition) layout() (*places, error) {
	p := &places{q35: d.IsQ35(), stored: true, devices: d.doc.Clone().Root.Child("devices"),
		used: map[uint16]string{}}
	for _, step := range []func() error{p.numberControllers, p.reserveMachine, p.reserveGiven} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// freePlaces returns where a running machine can take a device, in the order in which they are given out.
func (p *places) freePlaces() []PCIAddress {
	var out []PCIAddress
	if !p.q35 {
		for slot := 2; slot <= maxSlot; slot++ {
			if a := (PCIAddress{0, slot, 0}); p.vacant(a) {
				out = append(out, a)
			}
		}
		return out
	}
	for index := 1; index <= maxBus; index++ {
		if a := (PCIAddress{index, 0, 0}); p.port(index) != nil && p.vacant(a) {
			out = append(out, a)
		}
	}
	return out
}

func (p *places) countPorts() (n int) {
	for _, port := range p.ports {
		if port != nil {
			n++
		}
	}
	return n
}

// addSparePorts gives a q35 domain that is about to run root ports without a device, up to SparePorts. Without ACPI its
// guest could not use them.
func (d *Definition) addSparePorts() (*Definition, error) {
	if !d.IsQ35() || d.doc.Root.Child("features", "acpi") == nil {
		return d, nil
	}
	p, err := d.layout()
	if err != nil {
		return nil, err
	}
	missing := min(SparePorts-len(p.freePlaces()), maxBus-p.countPorts())
	if missing <= 0 {
		return d, nil
	}
	with, err := d.edit(func(root *xmltree.Node) error {
		for range missing {
			root.Child("devices").Append(xmltree.New("controller", "type", "pci", "model", "pcie-root-port"))
		}
		return nil
	})
	if err != nil {
		return d, nil // bus 0 is full: it runs without
	}
	return with, nil
}

// FindLive returns the alias of the device of a running domain that v describes.
func (d *Definition) FindLive(v *Device) (alias string, err error) {
	if err := v.checkLive("detach"); err != nil {
		return "", err
	}
	n, err := v.find(d.doc.Root.Child("devices"))
	switch {
	case virterr.Is(err, virterr.DeviceMissing) && v.diskTarget() != "":
		return "", virterr.New(virterr.DeviceMissing, "disk %s not found", v.diskTarget())
	case virterr.Is(err, virterr.DeviceMissing) && v.Kind() == "rng":
		return "", virterr.New(virterr.DeviceMissing, "model '%s' RNG device not present in domain configuration", v.node.Attr("model"))
	case err != nil:
		return "", err
	}
	if alias = n.Child("alias").Attr("name"); alias == "" {
		return "", virterr.New(virterr.InternalError, "device '%s' of a running domain has no alias", v.Kind())
	}
	return alias, d.alone(n)
}

// alone refuses to take a device away that shares its slot with others: a slot is what a guest lets go of.
func (d *Definition) alone(dev *xmltree.Node) error {
	p, err := d.layout()
	if err != nil {
		return err
	}
	at, err := ReadPCIAddress(dev.Child("address"))
	if err == nil && dev.Child("address").Attr("type") == "pci" && p.shared(at) {
		return virterr.New(virterr.OperationFailed, "cannot hot unplug multifunction PCI device with guest address: %s", at)
	}
	return err
}

// ByAlias returns the device with that alias. DeviceMissing if there is none.
func (d *Definition) ByAlias(alias string) (*Device, error) {
	if n := byAlias(d.doc.Root.Child("devices"), alias); n != nil {
		return &Device{n.Clone()}, nil
	}
	return nil, virterr.New(virterr.DeviceMissing, "no device found with alias %s", alias)
}

// CheckDetachLive refuses the device of that alias if a running domain cannot lose it. DeviceMissing if there is none.
func (d *Definition) CheckDetachLive(alias string) error {
	n := byAlias(d.doc.Root.Child("devices"), alias)
	if n == nil {
		return virterr.New(virterr.DeviceMissing, "no device found with alias %s", alias)
	}
	if err := (&Device{n}).checkLive("detach"); err != nil {
		return err
	}
	return d.alone(n)
}

// RemoveAlias returns the definition without the device of that alias. DeviceMissing if there is none.
func (d *Definition) RemoveAlias(alias string) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		n := byAlias(root.Child("devices"), alias)
		if n == nil {
			return virterr.New(virterr.DeviceMissing, "no device found with alias %s", alias)
		}
		n.Remove()
		return nil
	})
}

// LiveAliases returns the aliases of the devices that come and go, in the order of the document.
func (d *Definition) LiveAliases() []string {
	var out []string
	for _, n := range d.doc.Root.Child("devices").Elements() {
		if alias := n.Child("alias").Attr("name"); alias != "" && (&Device{n}).checkLive("") == nil {
			out = append(out, alias)
		}
	}
	return out
}

// IsHostdev reports whether the device of that alias is a PCI function of the host.
func (d *Definition) IsHostdev(alias string) bool {
	n := byAlias(d.doc.Root.Child("devices"), alias)
	return n != nil && isHostdev(n)
}

func byAlias(devices *xmltree.Node, alias string) *xmltree.Node {
	for _, n := range devices.Elements() {
		if n.Child("alias").Attr("name") == alias {
			return n
		}
	}
	return nil
}

// freeAlias names a device that comes to a running domain: a disk by its target, any other by the number after the highest
// of its kind.
func freeAlias(devices, dev *xmltree.Node) string {
	if dev.Is("disk") {
		for n := diskIndex(dev.Child("target").Attr("dev")); ; n++ {
			if alias := "virtio-disk" + strconv.Itoa(n); byAlias(devices, alias) == nil {
				return alias
			}
		}
	}
	prefix := map[string]string{"interface": "net", "rng": "rng"}[dev.Name.Local]
	if isHostdev(dev) {
		prefix = "hostdev"
	}
	next := 0
	for _, n := range devices.Elements() {
		rest, ok := strings.CutPrefix(n.Child("alias").Attr("name"), prefix)
		if v, err := strconv.Atoi(rest); ok && err == nil && v >= next {
			next = v + 1
		}
	}
	return prefix + strconv.Itoa(next)
}
