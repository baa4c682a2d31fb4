package domain

import (
	"strconv"

	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
)

// typeHostdev is the type of an interface that is a virtual function of a card.
const typeHostdev = "hostdev"

// HostdevDevices returns the devices of a domain that are PCI functions of the host: <hostdev> and <interface type='hostdev'>.
func (d *Definition) HostdevDevices() []*xmltree.Node { return hostdevs(d.doc.Root.Child("devices")) }

func hostdevs(devices *xmltree.Node) []*xmltree.Node {
	var out []*xmltree.Node
	for _, nic := range devices.All("interface") {
		if nic.Attr("type") == typeHostdev {
			out = append(out, nic)
		}
	}
	return append(out, devices.All("hostdev")...)
}

// isHostdev reports whether a device is a PCI function of the host.
func isHostdev(n *xmltree.Node) bool {
	return n.Is("hostdev") || n.Is("interface") && n.Attr("type") == typeHostdev
}

// hostdevAt returns the device that is the function with that address on the host, or nil.
func hostdevAt(devices *xmltree.Node, address string) *xmltree.Node {
	for _, n := range hostdevs(devices) {
		if at, err := HostdevAddress(n); err == nil && at == address {
			return n
		}
	}
	return nil
}

func (d *Definition) readHostdevs(devices *xmltree.Node) error {
	for _, h := range devices.All("hostdev") {
		setDefault(h, "mode", "subsystem")
		if h.Attr("type") == "" {
			return h.Errorf(virterr.XMLError, "missing source type in hostdev; use type='pci'")
		}
		if err := d.hostdevSource(h); err != nil {
			return err
		}
		if t := h.Child("teaming"); t != nil && !d.opts.Stored {
			if err := teaming(t); err != nil {
				return err
			}
		}
	}
	seen := map[string]bool{}
	for _, h := range hostdevs(devices) {
		at, err := HostdevAddress(h)
		if err != nil || d.opts.Stored {
			continue // hostdevSource has refused it
		}
		if seen[at] {
			return h.Errorf(virterr.ConfigUnsupported, "PCI device %s is in the domain twice", at)
		}
		seen[at] = true
	}
	return nil
}

// hostdevSource checks where the function is, and prints that as libvirt does.
func (d *Definition) hostdevSource(h *xmltree.Node) error {
	setDefault(h, "managed", "no")
	n := h.Child("source").Child("address")
	if n == nil {
		if d.opts.Stored {
			return nil
		}
		return h.Errorf(virterr.XMLError, "Missing <address> element in hostdev device: <source><address domain='0' bus='1' slot='0' function='0'/></source>")
	}
	f, err := portconf.ReadFunction(n)
	if err != nil {
		if d.opts.Stored {
			return nil
		}
		return err
	}
	f.Write(n)
	return nil
}

// HostdevAddress returns a host device's address on the host, as sysfs writes it: 0000:01:00.0.
func HostdevAddress(h *xmltree.Node) (string, error) {
	n := h.Child("source").Child("address")
	if n == nil {
		return "", h.Errorf(virterr.XMLError, "Missing <address> element in hostdev device")
	}
	f, err := portconf.ReadFunction(n)
	return f.String(), err
}

// hostdevNIC checks an interface that is a virtual function.
func (d *Definition) hostdevNIC(nic *xmltree.Node) error {
	if name := nic.Child("driver").Attr("name"); name != "" && name != "vfio" {
		return nic.Child("driver").Errorf(virterr.ConfigUnsupported, "driver name '%s' is not for interface type='hostdev', whose driver is vfio", name)
	}
	if err := noRSS(nic); err != nil {
		return err
	}
	for _, element := range []string{"mtu", "link", "target", "model"} {
		if e := nic.Child(element); e != nil && len(e.Attrs) > 0 {
			return e.Errorf(virterr.ConfigUnsupported, "<%s> is not for interface type='hostdev': the guest has the card itself", element)
		}
	}
	if vlan := nic.Child("vlan"); vlan != nil {
		tags := vlan.All("tag")
		if len(tags) != 1 || vlan.Attr("trunk") == "yes" || tags[0].Attr("nativeMode") != "" {
			return vlan.Errorf(virterr.ConfigUnsupported, "vlan trunking is not supported by SR-IOV network devices: <vlan> needs one <tag id=''/>")
		}
		if id, err := strconv.Atoi(tags[0].Attr("id")); err != nil || id > 4094 {
			return tags[0].Errorf(virterr.XMLError, "vlan tag id %s too large (maximum 4094)", tags[0].Attr("id"))
		}
	}
	return d.hostdevSource(nic)
}

// noRSS refuses what a card has of its own.
func noRSS(nic *xmltree.Node) error {
	driver := nic.Child("driver")
	if driver.Attr("rss") == "on" {
		return driver.Errorf(virterr.ConfigUnsupported, "rss='on' is not for interfaces of type hostdev: the guest has the card itself, and sets its receive-side scaling")
	}
	if driver.Attr("rss_hash_report") == "on" {
		return driver.Errorf(virterr.ConfigUnsupported, "rss_hash_report='on' is not for interfaces of type hostdev: the guest has the card itself, and the hashes that it reports")
	}
	return nil
}

// onlyHostdev refuses what other types of interfaces cannot have.
func onlyHostdev(nic *xmltree.Node) error {
	if nic.Child("driver").Attr("name") == "vfio" {
		return nic.Child("driver").Errorf(virterr.ConfigUnsupported, "driver name 'vfio' is for interface type='hostdev'")
	}
	if nic.Child("driver").Attr("iommufd") != "" {
		return nic.Child("driver").Errorf(virterr.ConfigUnsupported, "attribute 'iommufd' of driver is for interface type='hostdev'")
	}
	if a := nic.Child("source").Child("address"); a != nil {
		return a.Errorf(virterr.ConfigUnsupported, "<source><address> is for interface type='hostdev'")
	}
	return nil
}

// nameHostdevDrivers is nameHostdevDriver for all of a running domain.
func nameHostdevDrivers(root *xmltree.Node) {
	for _, h := range hostdevs(root.Child("devices")) {
		nameHostdevDriver(root, h)
	}
}
