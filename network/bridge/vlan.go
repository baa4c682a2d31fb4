package bridge

import (
	"slices"

	"github.com/vishvananda/netlink"

	"virtd/network/portconf"
	"virtd/virterr"
)

// SetVLAN makes a port a member of exactly the VLANs that v says, or gives it the bridge's own choice back where v says none.
// The bridge has to filter VLANs: on one that does not, the guest would reach everybody in spite of its tag.
func (h *Host) SetVLAN(bridge, port string, v portconf.VLAN) error {
	l, err := netlink.LinkByName(bridge)
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to set vlan configuration on port %s of bridge %s: %w", port, bridge, errno(err))
	}
	br, ok := l.(*netlink.Bridge)
	filters := ok && br.VlanFiltering != nil && *br.VlanFiltering
	switch {
	case !filters && !v.Given():
		return nil
	case !filters:
		return virterr.New(virterr.ConfigUnsupported, "interface %s cannot have VLAN tags on bridge %s, which does not filter VLANs: "+
			"ip link set %s type bridge vlan_filtering 1 (in a kernel with CONFIG_BRIDGE_VLAN_FILTERING)", port, bridge, bridge)
	}
	if !v.Given() && br.VlanDefaultPVID != nil && *br.VlanDefaultPVID != 0 {
		v = portconf.VLAN{Tags: []uint16{*br.VlanDefaultPVID}}
	}
	p, err := netlink.LinkByName(port)
	if err == nil {
		err = setVLAN(p, v)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Unable to set vlan configuration on port %s of bridge %s: %w", port, bridge, errno(err))
	}
	return nil
}

// setVLAN makes a port a member of exactly these VLANs.
func setVLAN(l netlink.Link, v portconf.VLAN) error {
	all, err := netlink.BridgeVlanList()
	if err != nil {
		return err
	}
	for _, have := range all[int32(l.Attrs().Index)] {
		if !slices.Contains(v.Tags, have.Vid) {
			if err := netlink.BridgeVlanDel(l, have.Vid, false, false, false, true); err != nil {
				return err
			}
		}
	}
	for _, id := range v.Tags {
		pvid := !v.Trunk || id == v.Native
		if err := netlink.BridgeVlanAdd(l, id, pvid, pvid && !v.NativeTagged, false, true); err != nil {
			return err
		}
	}
	return nil
}
