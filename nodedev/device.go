package nodedev

import (
	"path"
	"slices"
	"strings"
)

// Kind is what a device is, by libvirt's name for the capability.
type Kind string

// The kinds of devices that are listed.
const (
	System      Kind = "system"
	PCI         Kind = "pci"
	USBDevice   Kind = "usb_device"
	USB         Kind = "usb" // an interface of a USB device
	Net         Kind = "net"
	SCSIHost    Kind = "scsi_host"
	SCSITarget  Kind = "scsi_target"
	SCSI        Kind = "scsi"
	Storage     Kind = "storage"
	SCSIGeneric Kind = "scsi_generic"
	DRM         Kind = "drm"
	Mdev        Kind = "mdev"
)

// Capabilities that some devices have besides their kind.
const (
	FCHost = "fc_host" // a SCSI host on Fibre Channel
	VPorts = "vports"  // ... that can make virtual ports

	MdevTypes = "mdev_types" // a PCI function that can make mediated devices
	VPD       = "vpd"        // ... that has vital product data
)

// computer is the device at the root of the tree.
const computer = "computer"

// Device is one device of the host.
type Device struct {
	Name string
	Kind Kind
	Path string   // below /sys with links resolved; "" for the computer
	Caps []string // the kind and what else it can do, by libvirt's names

	WWNN, WWPN string // of Fibre Channel hosts

	Active     bool // it exists: of mediated devices there are definitions without a device
	Persistent bool // defined, so that it can be started again; the computer counts as that
	Autostart  bool // started when the host boots; the computer counts as that
}

// Has reports whether the device has a capability.
func (d Device) Has(capability string) bool { return slices.Contains(d.Caps, capability) }

// node is a device while it is looked at.
type node struct {
	Device
	props map[string]string
	links []string // in /dev
	attrs []MdevAttr
}

// devname is the device's node in /dev, or "".
func (n *node) devname() string {
	name := n.props["DEVNAME"]
	if name == "" || strings.HasPrefix(name, "/") {
		return name
	}
	return "/dev/" + name
}

// places are the folders of sysfs that have all devices of interest.
var places = []string{"bus/pci/devices", "bus/usb/devices", "bus/scsi/devices", "class/net", "class/block", "class/scsi_generic", "class/drm", mdevBus}

// scan finds all devices but the computer.
func (s *sysfs) scan() map[string]Device {
	found := map[string]Device{}
	for _, place := range places {
		for _, name := range s.list(place) {
			dev, err := s.resolve(place + "/" + name)
			if err != nil {
				continue // gone again
			}
			if n, ok := s.identify(dev); ok {
				found[dev] = n.Device
			}
		}
	}
	return found
}

// identify says what the device at a path is and what it is called. Not everything in sysfs is a device that is listed.
// The rules are those of libvirt's udev driver: DEVTYPE decides where it is set, so bridges and bonds are not listed.
func (s *sysfs) identify(dev string) (*node, bool) {
	n := &node{Device: Device{Path: dev}, props: s.properties(dev)}
	subsystem := s.link(dev, "subsystem")
	if subsystem == "" {
		return nil, false
	}
	n.Kind = kindOf(n.props, subsystem)
	suffix := ""
	switch n.Kind {
	case "":
		return nil, false
	case Net:
		suffix = s.attr(dev, "address")
	case Storage:
		if !s.storage(n) {
			return nil, false
		}
		suffix = n.props["ID_SERIAL"]
	case Mdev:
		if !s.complete(n) {
			return nil, false
		}
		suffix = path.Base(path.Dir(dev))
	case USBDevice, SCSIGeneric, DRM:
		n.links = s.database("c"+n.props["MAJOR"]+":"+n.props["MINOR"], n.props)
	}
	slices.Sort(n.links)
	n.Caps = []string{string(n.Kind)}
	switch n.Kind {
	case SCSIHost:
		s.fibreChannel(n)
	case PCI:
		if len(s.mdevTypes(dev)) > 0 {
			n.Caps = append(n.Caps, MdevTypes)
		}
		if s.hasVPD(dev) {
			n.Caps = append(n.Caps, VPD)
		}
	}
	n.Name = deviceName(subsystem, path.Base(dev), suffix)
	return n, true
}

func kindOf(props map[string]string, subsystem string) Kind {
	if devtype, ok := props["DEVTYPE"]; ok {
		switch devtype {
		case "usb_device":
			return USBDevice
		case "usb_interface":
			return USB
		case "scsi_host":
			return SCSIHost
		case "scsi_target":
			return SCSITarget
		case "scsi_device":
			return SCSI
		case "disk":
			return Storage
		case "wlan":
			return Net
		case "drm_minor":
			return DRM
		}
		return ""
	}
	switch {
	case props["PCI_CLASS"] != "":
		return PCI
	case props["INTERFACE"] != "":
		return Net
	case subsystem == "scsi_generic":
		return SCSIGeneric
	case subsystem == "mdev":
		return Mdev
	}
	return ""
}

// deviceName puts a name together as libvirt does: whatever is not a letter or digit becomes an underscore.
func deviceName(subsystem, sysname, suffix string) string {
	name := subsystem + "_" + sysname
	if suffix != "" {
		name += "_" + suffix
	}
	b := []byte(name)
	for i, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			b[i] = '_'
		}
	}
	return string(b)
}

// parent is the name of the nearest device above, the computer at last.
func (s *sysfs) parent(dev string) string {
	for up := path.Dir(dev); up != "." && up != "devices"; up = path.Dir(up) {
		if n, ok := s.identify(up); ok {
			return n.Name
		}
	}
	return computer
}
