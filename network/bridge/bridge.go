package bridge

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// AddBridge implements Links.
func (h *Host) AddBridge(c BridgeConfig) error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = c.Name, c.MAC
	br := &netlink.Bridge{LinkAttrs: attrs}
	if c.VLANFiltering {
		br.VlanFiltering = &c.VLANFiltering
	}
	if err := netlink.LinkAdd(br); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return virterr.New(virterr.OperationFailed, "Unable to create bridge %s: an interface of that name exists", c.Name)
		}
		return virterr.New(virterr.SystemError, "Unable to create bridge %s: %w", c.Name, errno(err))
	}
	// The MTU is set by a call of its own: one given at creation lasts only until the ports change.
	var err error
	if c.MTU > 0 {
		err = h.SetMTU(c.Name, c.MTU)
	}
	if err == nil && (c.STP || c.Delay > 0) {
		err = setSTP(c)
	}
	if err == nil {
		err = h.SetUp(c.Name, true)
	}
	if err != nil {
		h.Delete(c.Name)
		return err
	}
	return nil
}

// Attach implements Links.
func (h *Host) Attach(bridge, port string) error {
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to add bridge %s port %s: %w", bridge, port, errno(err))
	}
	if br.Type() != "bridge" {
		return notABridge(br, port)
	}
	l, err := netlink.LinkByName(port)
	if err == nil {
		err = netlink.LinkSetMaster(l, br)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to add bridge %s port %s: %w", bridge, port, errno(err))
	}
	return nil
}

// Isolate implements Links.
func (h *Host) Isolate(port string, on bool) error {
	l, err := netlink.LinkByName(port)
	if err == nil {
		err = netlink.LinkSetIsolated(l, on)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to isolate port %s of a bridge: %w", port, errno(err))
	}
	return nil
}

// Detach implements Links.
func (h *Host) Detach(port string) error {
	l, err := netlink.LinkByName(port)
	if err == nil {
		err = netlink.LinkSetNoMaster(l)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to remove port %s from its bridge: %w", port, errno(err))
	}
	return nil
}

// bridgeMTU returns what a port without an MTU of its own gets. A missing bridge is found here first, so this is where
// the user is told about it.
func bridgeMTU(bridge, port string) (int, error) {
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return 0, virterr.New(virterr.SystemError, "Cannot get interface MTU on '%s': %w", bridge, errno(err))
	}
	if br.Type() != "bridge" {
		return 0, notABridge(br, port)
	}
	return br.Attrs().MTU, nil
}

func notABridge(l netlink.Link, port string) error {
	name := l.Attrs().Name
	return virterr.New(virterr.SystemError, "Unable to add bridge %s port %s: %w (%s is of kind %s, not a bridge)",
		name, port, errno(unix.EOPNOTSUPP), name, l.Type())
}
