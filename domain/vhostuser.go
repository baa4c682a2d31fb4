package domain

import (
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// typeVhostUser is the type of interfaces and disks that another process serves.
const typeVhostUser = "vhostuser"

// VhostUser is the socket of the process that serves a device.
type VhostUser struct {
	Path   string
	Server bool // virtd listens, and the process connects
	// Reconnect is how often in seconds it is tried to connect again when the process is gone; 0 is never.
	Reconnect uint
}

// IsVhostUser reports whether another process serves the queues of an interface or disk.
func IsVhostUser(n *xmltree.Node) bool {
	return n.Attr("type") == typeVhostUser && (n.Is("interface") || n.Is("disk"))
}

// VhostUser returns the socket of the device of that alias; ok is false for a device that has none.
func (d *Definition) VhostUser(alias string) (socket VhostUser, ok bool) {
	n := byAlias(d.doc.Root.Child("devices"), alias)
	if n == nil || !IsVhostUser(n) {
		return VhostUser{}, false
	}
	v, err := ReadVhostUser(n)
	return v, err == nil
}

// ReadVhostUser reads the <source> of a vhost-user interface or disk.
func ReadVhostUser(n *xmltree.Node) (VhostUser, error) {
	source := n.Child("source")
	mode := source.Attr("mode")
	if n.Is("disk") {
		mode = "client" // there is no other
	}
	var v VhostUser
	switch {
	case source == nil:
		return v, n.Errorf(virterr.XMLError, "Missing mandatory element <source> specified with <%s type='vhostuser'/>", n.Name.Local)
	case source.Attr("type") != "unix":
		return v, source.Errorf(virterr.ConfigUnsupported, "Type='%s' unsupported for <%s type='vhostuser'>", source.Attr("type"), n.Name.Local)
	case source.Attr("path") == "":
		return v, source.Errorf(virterr.XMLError, "Missing mandatory attribute 'path' in element <source> with <%s type='vhostuser'/>", n.Name.Local)
	case source.Attr("path")[0] != '/':
		return v, source.Errorf(virterr.XMLError, "path '%s' of <%s type='vhostuser'> must be absolute", source.Attr("path"), n.Name.Local)
	case mode == "":
		return v, source.Errorf(virterr.XMLError, "Missing mandatory attribute 'mode' in element <source> with <%s type='vhostuser'/>", n.Name.Local)
	case mode != "client" && mode != "server":
		return v, source.Errorf(virterr.ConfigUnsupported, "Wrong <source> 'mode' attribute specified with <%s type='vhostuser'/>", n.Name.Local)
	}
	v.Path, v.Server = source.Attr("path"), mode == "server"
	return v, v.readReconnect(source)
}

// defaultReconnect is libvirt's, in seconds.
const defaultReconnect = 1

func (v *VhostUser) readReconnect(source *xmltree.Node) error {
	r := source.Child("reconnect")
	if r == nil {
		return nil
	}
	if v.Server {
		return r.Errorf(virterr.ConfigUnsupported, "'reconnect' attribute unsupported 'server' mode for <interface type='vhostuser'/>")
	}
	if r.Attr("enabled") == "" {
		return r.Errorf(virterr.XMLError, "Missing required attribute 'enabled' in element 'reconnect'")
	}
	if r.Attr("enabled") != "yes" {
		return nil
	}
	v.Reconnect = defaultReconnect
	if text, ok := r.LookupAttr("timeout"); ok {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n == 0 {
			return r.Errorf(virterr.XMLError, "Invalid value for attribute 'timeout' in element 'reconnect': '%s'. Expected positive integer value", text)
		}
		v.Reconnect = uint(n)
	}
	return nil
}

// nicVhostUser checks an interface of type vhostuser, and refuses for others what only it has.
func (d *Definition) nicVhostUser(nic *xmltree.Node) error {
	if d.opts.Stored {
		return nil
	}
	source := nic.Child("source")
	if nic.Attr("type") != typeVhostUser {
		if mode := source.Attr("mode"); mode == "client" || mode == "server" {
			return source.Errorf(virterr.ConfigUnsupported, "mode='%s' of <source> is only for type='vhostuser'", mode)
		}
		return onlyVhostUser(source)
	}
	if _, err := ReadVhostUser(nic); err != nil {
		return err
	}
	if name := nic.Child("driver").Attr("name"); name != "" {
		return nic.Child("driver").Errorf(virterr.ConfigUnsupported,
			"driver name '%s' is not possible with interface type='vhostuser': another process moves the packets; remove it", name)
	}
	return nil
}

// onlyVhostUser refuses what only the <source> of a vhost-user device has.
func onlyVhostUser(source *xmltree.Node) error {
	for _, attr := range []string{"type", "path"} {
		if _, ok := source.LookupAttr(attr); ok {
			return source.Errorf(virterr.ConfigUnsupported, "attribute '%s' of <source> is only for type='vhostuser'", attr)
		}
	}
	if r := source.Child("reconnect"); r != nil {
		return r.Errorf(virterr.ConfigUnsupported, "<reconnect> is only for type='vhostuser'")
	}
	return nil
}

// checkVhostUserDisk refuses what the process behind a disk would have to be told and cannot.
func checkVhostUserDisk(disk *xmltree.Node) error {
	if _, err := ReadVhostUser(disk); err != nil {
		return err
	}
	if bus := disk.Child("target").Attr("bus"); bus != "virtio" && bus != "" {
		return disk.Errorf(virterr.ConfigUnsupported, "vhostuser disk supports only virtio bus")
	}
	if disk.Attr("snapshot") != "no" {
		return disk.Errorf(virterr.ConfigUnsupported, "only snapshot=no is supported with vhostuser disk")
	}
	driver := disk.Child("driver")
	for _, attr := range []string{"cache", "error_policy", "rerror_policy", "io", "ioeventfd", "copy_on_read", "discard", "iothread", "detect_zeroes"} {
		if _, ok := driver.LookupAttr(attr); ok {
			return driver.Errorf(virterr.ConfigUnsupported, "%s is not supported with vhostuser disk", attr)
		}
	}
	if driver.Attr("type") != "raw" {
		return driver.Errorf(virterr.ConfigUnsupported, "driver type '%s' is not supported with vhostuser disk: its process knows the format", driver.Attr("type"))
	}
	for _, name := range []string{"iotune", "readonly", "shareable", "serial", "blockio", "backingStore"} {
		e := disk.Child(name)
		if e != nil && (name != "backingStore" || len(e.Elements())+len(e.Attrs) > 0) {
			return e.Errorf(virterr.ConfigUnsupported, "%s is not supported with vhostuser disk", name)
		}
	}
	return nil
}
