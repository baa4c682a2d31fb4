package domain

import (
	"crypto/rand"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Limits of one virtio network device.
const (
	MaxQueuePairs   = 16
	MaxNICQueueSize = 1024
	maxLinkName     = 15 // IFNAMSIZ less the terminating zero
)

// Types of interfaces that more than one place knows.
const (
	typeDirect = "direct" // a macvtap on a network link of the host
	typeUser   = "user"   // a network in a process of its own, without privileges
)

func (d *Definition) readInterfaces(devices *xmltree.Node) error {
	for _, nic := range devices.All("interface") {
		if nic.Attr("type") == "" {
			for _, attr := range []string{"bridge", "network"} { // forgotten rather than left to the default
				if source := nic.Child("source"); source.Attr(attr) != "" {
					return nic.Errorf(virterr.XMLError, "interface with <source %s=> and without type; use type='%s'", attr, attr)
				}
			}
			nic.SetAttr("type", typeUser) // libvirt's default
		}
		for _, step := range []func(*xmltree.Node) error{d.nicMAC, d.nicSource, d.nicModel, d.nicDriver, d.nicDetails, d.nicPort, d.nicUser, d.nicVhostUser, d.nicTeaming} {
			if err := step(nic); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Definition) nicMAC(nic *xmltree.Node) error {
	mac := nic.Child("mac")
	if mac == nil || mac.Attr("address") == "" {
		address, err := newMAC()
		if err != nil {
			return err
		}
		nic.Ensure("mac").SetAttr("address", address)
		return nil
	}
	address, err := parseMAC(mac.Attr("address"))
	switch {
	case err != nil:
		return mac.Errorf(virterr.XMLError, "unable to parse mac address '%s'", mac.Attr("address"))
	case address[0]&1 != 0:
		return mac.Errorf(virterr.XMLError, "expected unicast mac address, found multicast '%s'", mac.Attr("address"))
	}
	mac.SetAttr("address", address.String())
	return nil
}

// newMAC makes an address with the prefix that libvirt uses for KVM guests.
func newMAC() (string, error) {
	var b [3]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", virterr.New(virterr.InternalError, "cannot generate a MAC address: %w", err)
	}
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", b[0], b[1], b[2]), nil
}

func (d *Definition) nicSource(nic *xmltree.Node) error {
	if d.opts.Stored {
		return nil
	}
	source, target := nic.Child("source"), nic.Child("target")
	if t := nic.Attr("type"); !d.opts.Live && source != nil && (t == "bridge" || t == typeDirect || t == typeHostdev) {
		for _, attr := range []string{"network", "portgroup", "portid"} { // a copy of what a running domain had from a network
			source.RemoveAttr(attr)
		}
	}
	if nic.Attr("type") != typeHostdev {
		if err := onlyHostdev(nic); err != nil {
			return err
		}
	}
	switch nic.Attr("type") {
	case "network":
		if source.Attr("network") == "" {
			return nic.Errorf(virterr.XMLError, "No <source> 'network' attribute specified with <interface type='network'/>")
		}
		if target.Attr("managed") != "" {
			return target.Errorf(virterr.ConfigUnsupported, "attribute 'managed' is only for interface type='ethernet'")
		}
	case typeHostdev:
		return d.hostdevNIC(nic)
	case "bridge":
		bridge := source.Attr("bridge")
		if bridge == "" {
			return nic.Errorf(virterr.XMLError, "No <source> 'bridge' attribute specified with <interface type='bridge'/>")
		}
		if err := linkName(source, "bridge", bridge); err != nil {
			return err
		}
		if target.Attr("managed") != "" {
			return target.Errorf(virterr.ConfigUnsupported, "attribute 'managed' is only for interface type='ethernet'")
		}
	case typeDirect:
		if source.Attr("dev") == "" {
			return nic.Errorf(virterr.XMLError, "No <source> 'dev' attribute specified with <interface type='direct'/>")
		}
		if err := linkName(source, "source", source.Attr("dev")); err != nil {
			return err
		}
		if target.Attr("managed") != "" {
			return target.Errorf(virterr.ConfigUnsupported, "attribute 'managed' is only for interface type='ethernet'")
		}
		setDefault(source, "mode", "vepa")
	case typeUser:
		if dev := target.Attr("dev"); dev != "" {
			target.RemoveAttr("dev") // there is none on the host
		}
	case typeVhostUser:
		if target.Attr("managed") != "" {
			return target.Errorf(virterr.ConfigUnsupported, "attribute 'managed' is only for interface type='ethernet'")
		}
	case "ethernet":
		if target.Attr("managed") == "no" && target.Attr("dev") == "" {
			return target.Errorf(virterr.XMLError, "target managed='no' needs the name of an existing tap in dev=")
		}
	}
	if dev := target.Attr("dev"); dev != "" {
		return linkName(target, "target", dev)
	}
	return nil
}

// linkName refuses what Linux does not take as the name of a network link.
func linkName(n *xmltree.Node, what, name string) error {
	if len(name) > maxLinkName {
		return n.Errorf(virterr.XMLError, "%s name '%s' is longer than %d bytes", what, name, maxLinkName)
	}
	if name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\r%") {
		return n.Errorf(virterr.XMLError, "%s name '%s' is not the name of a network link", what, name)
	}
	return nil
}

func (d *Definition) nicModel(nic *xmltree.Node) error {
	if nic.Attr("type") == typeHostdev {
		return nil // the guest sees what it is
	}
	model := nic.Ensure("model")
	setDefault(model, "type", "virtio")
	return nil
}

func (d *Definition) nicDriver(nic *xmltree.Node) error {
	driver := nic.Child("driver")
	if driver == nil || d.opts.Stored {
		return nil
	}
	if q, ok := driver.LookupAttr("queues"); ok {
		if n, err := strconv.Atoi(q); err != nil || n < 1 || n > MaxQueuePairs {
			return driver.Errorf(virterr.ConfigUnsupported, "interface queues='%s' must be from 1 to %d", q, MaxQueuePairs)
		}
	}
	for _, attr := range []string{"rx_queue_size", "tx_queue_size"} {
		if q, ok := driver.LookupAttr(attr); ok {
			n, err := strconv.ParseUint(q, 10, 16)
			if err != nil || bits.OnesCount64(n) != 1 || n < 64 || n > MaxNICQueueSize {
				return driver.Errorf(virterr.ConfigUnsupported, "%s='%s' must be a power of two from 64 to %d", attr, q, MaxNICQueueSize)
			}
		}
	}
	return nil
}

func (d *Definition) nicDetails(nic *xmltree.Node) error {
	mtu := nic.Child("mtu")
	if mtu == nil || d.opts.Stored {
		return nil
	}
	// 68 is the least that IPv4 works with and virtio 1.2 section 5.1.4.1 allows.
	if n, err := strconv.Atoi(mtu.Attr("size")); err != nil || n < 68 || n > 65535 {
		return mtu.Errorf(virterr.XMLError, "mtu size='%s' must be from 68 to 65535", mtu.Attr("size"))
	}
	return nil
}
