package domain

import (
	"cmp"
	"maps"
	"slices"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Saved returns the document of a running domain as an image of its saved state keeps it: with the aliases and addresses
// by which the state's parts are found again, and without what this run got from its host.
func (d *Definition) Saved() string {
	doc := d.doc.Clone()
	stripRun(doc.Root)
	return doc.String()
}

// ParseSaved reads what Saved returned, or a user made of it. Start gives it an id again.
func ParseSaved(text string, opts Options) (*Definition, error) {
	opts.Live, opts.Stored = true, true
	return Parse(text, opts)
}

// Inactive returns the definition without what only a running domain has.
func (d *Definition) Inactive() (*Definition, error) {
	opts := d.opts
	opts.Live, opts.Stored, opts.Validate = false, true, false
	return build(d.doc.Clone(), opts)
}

// CheckSameMachine refuses a document that is to stand for the saved machine of d and describes another one, in what the
// guest would notice. Places of files, networks and the like may differ.
func (d *Definition) CheckSameMachine(other *Definition) error {
	differ := func(what string, is, was any) error {
		return virterr.New(virterr.ConfigUnsupported, "Target %s %v does not match source %v", what, is, was)
	}
	switch {
	case d.uuid != other.uuid:
		return differ("domain uuid", other.uuid, d.uuid)
	case d.name != other.name:
		return differ("domain name", "'"+other.name+"'", "'"+d.name+"'")
	case d.memory != other.memory:
		return differ("domain max memory", other.memory, d.memory)
	case d.VCPUs() != other.VCPUs():
		return differ("domain vCPU max", other.VCPUs(), d.VCPUs())
	case d.CurrentVCPUs() != other.CurrentVCPUs():
		return differ("domain vCPU count", other.CurrentVCPUs(), d.CurrentVCPUs())
	case !slices.Equal(d.OnlineVCPUs(), other.OnlineVCPUs()):
		return differ("domain online vCPUs", other.OnlineVCPUs(), d.OnlineVCPUs())
	case d.Machine() != other.Machine():
		return differ("domain OS type", other.Machine(), d.Machine())
	}
	was, is := d.guestDevices(), other.guestDevices()
	if names, others := slices.Sorted(maps.Keys(was)), slices.Sorted(maps.Keys(is)); !slices.Equal(names, others) {
		return virterr.New(virterr.ConfigUnsupported, "Target domain devices %v do not match source %v", others, names)
	}
	for name, dev := range was {
		for _, option := range []string{"packed", "rss", "rss_hash_report"} {
			if before, now := driverOption(dev, option), driverOption(is[name], option); before != now {
				return virterr.New(virterr.ConfigUnsupported, "Target device %s option '%s' does not match source '%s': %s", option, now, before, name)
			}
		}
	}
	return nil
}

// driverOption is a switch by which a device offers its driver something, off where it is not there.
func driverOption(dev *xmltree.Node, name string) string {
	return cmp.Or(dev.Child("driver").Attr(name), "off")
}

// guestDevices are the devices that a guest sees, by kind and PCI address.
func (d *Definition) guestDevices() map[string]*xmltree.Node {
	devices := map[string]*xmltree.Node{}
	for _, dev := range d.doc.Root.Child("devices").Elements() {
		if a := dev.Child("address"); a.Attr("type") == "pci" {
			devices[dev.Name.Local+" at "+a.Attr("bus")+":"+a.Attr("slot")+"."+a.Attr("function")] = dev
		}
	}
	return devices
}
