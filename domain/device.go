package domain

import (
	"slices"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Device is one device in a document of its own, as attach-device and its siblings take it: a child of <devices>.
type Device struct{ node *xmltree.Node }

// hotpluggable are the kinds of devices that a definition can get and lose by themselves. The others (a balloon, a panic
// device) are part of the domain, as in libvirt.
var hotpluggable = []string{"disk", "interface", "controller", "serial", "console", "parallel", "channel", "rng", "hostdev",
	"input", "sound", "video", "watchdog", "filesystem", "redirdev", "shmem", "tpm", "vsock", "iommu", "memory", "lease"}

// ParseDevice reads the document of one device. What a domain can have is checked when it gets the device.
func ParseDevice(text string) (*Device, error) {
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	tidy(doc.Root)
	v := &Device{doc.Root}
	if mac, err := parseMAC(v.MAC()); err == nil {
		v.node.Child("mac").SetAttr("address", mac.String())
	}
	return v, nil
}

// Kind returns the element's name: disk, interface, ...
func (v *Device) Kind() string { return v.node.Name.Local }

// LinkUp reports what the device says about its link, for an interface.
func (v *Device) LinkUp() bool { return v.node.Child("link").Attr("state") != "down" }

// MAC returns the address of an interface in its usual form, "" if the document has none.
func (v *Device) MAC() string { return v.node.Child("mac").Attr("address") }

// CheckDetach refuses a device that a definition cannot lose by itself.
func (v *Device) CheckDetach() error { return v.check("detach") }

func (v *Device) check(verb string) error {
	if !slices.Contains(hotpluggable, v.Kind()) {
		return virterr.New(virterr.OperationUnsupported, "persistent %s of device '%s' is not supported", verb, v.Kind())
	}
	return nil
}

// AttachDevice returns the definition with one more device. Its address is chosen if the document has none.
func (d *Definition) AttachDevice(v *Device) (*Definition, error) {
	if err := v.check("attach"); err != nil {
		return nil, err
	}
	if name := v.diskTarget(); name != "" && d.disk(d.doc.Root, name) != nil {
		return nil, virterr.New(virterr.OperationInvalid, "target %s already exists", name)
	}
	return d.rebuild(func(devices *xmltree.Node) error {
		devices.Append(v.node.Clone())
		return nil
	})
}

// DetachDevice returns the definition without the device that v describes: a disk by its target, an interface by its MAC
// address, any other by all that v says of it. DeviceMissing if there is none.
func (d *Definition) DetachDevice(v *Device) (*Definition, error) {
	if err := v.check("detach"); err != nil {
		return nil, err
	}
	return d.rebuild(func(devices *xmltree.Node) error {
		n, err := v.find(devices)
		if err == nil {
			n.Remove()
		}
		return err
	})
}

// UpdateDevice returns the definition in which v stands for the disk or interface that it describes. The address stays
// where v has none.
func (d *Definition) UpdateDevice(v *Device) (*Definition, error) {
	if k := v.Kind(); k != "disk" && k != "interface" {
		return nil, virterr.New(virterr.OperationUnsupported, "persistent update of device '%s' is not supported", k)
	}
	return d.rebuild(func(devices *xmltree.Node) error {
		n, err := v.find(devices)
		if err != nil {
			return err
		}
		with := v.node.Clone()
		if a := n.Child("address"); a != nil && with.Child("address") == nil {
			with.Append(a.Clone())
		}
		n.Replace(with)
		return nil
	})
}

// rebuild returns the definition with f's changes to <devices>, read as strictly as what a user defines.
func (d *Definition) rebuild(f func(devices *xmltree.Node) error) (*Definition, error) {
	doc := d.doc.Clone()
	if err := f(doc.Root.Ensure("devices")); err != nil {
		return nil, err
	}
	opts := d.opts
	opts.Validate, opts.Stored = false, false
	return build(doc, opts)
}

func (d *Definition) disk(root *xmltree.Node, target string) *xmltree.Node {
	for _, n := range root.Child("devices").All("disk") {
		if n.Child("target").Attr("dev") == target {
			return n
		}
	}
	return nil
}

// diskTarget returns the guest's name of a disk, "" for other devices.
func (v *Device) diskTarget() string {
	if v.Kind() != "disk" {
		return ""
	}
	return v.node.Child("target").Attr("dev")
}

// find returns the one device that v means.
func (v *Device) find(devices *xmltree.Node) (*xmltree.Node, error) {
	var found []*xmltree.Node
	for _, n := range devices.All(v.Kind()) {
		if v.means(n) {
			found = append(found, n)
		}
	}
	what := "matching " + v.Kind() + " device not found"
	switch {
	case v.diskTarget() != "":
		what = "no target device " + v.diskTarget()
	case v.Kind() == "hostdev":
		at, err := HostdevAddress(v.node)
		if err != nil {
			return nil, err
		}
		what = "host pci device " + at + " not found"
	case v.MAC() != "":
		what = "no device matching MAC address " + v.MAC() + " found"
	}
	switch len(found) {
	case 0:
		return nil, virterr.New(virterr.DeviceMissing, "%s", what)
	case 1:
		return found[0], nil
	}
	return nil, virterr.New(virterr.OperationFailed, "%d devices match this <%s>; say its address too", len(found), v.Kind())
}

func (v *Device) means(n *xmltree.Node) bool {
	if t := v.diskTarget(); t != "" {
		return n.Child("target").Attr("dev") == t
	}
	if mac := v.MAC(); mac != "" {
		a := v.node.Child("address")
		return n.Child("mac").Attr("address") == mac && (a == nil || says(a, n.Child("address")))
	}
	if v.Kind() == "hostdev" {
		at, err := HostdevAddress(n)
		want, werr := HostdevAddress(v.node)
		return err == nil && werr == nil && at == want
	}
	return says(v.node, n)
}

// says reports whether all that v has, n has too: attributes, elements and text. Aliases are names of one run.
func says(v, n *xmltree.Node) bool {
	if n == nil || v.Trimmed() != n.Trimmed() {
		return false
	}
	for _, a := range v.Attrs {
		if got, ok := n.LookupAttr(a.Name.Local); !ok || got != a.Value {
			return false
		}
	}
	for _, c := range v.Elements() {
		if c.Is("alias") {
			continue
		}
		if !slices.ContainsFunc(n.All(c.Name.Local), func(m *xmltree.Node) bool { return says(c, m) }) {
			return false
		}
	}
	return true
}
