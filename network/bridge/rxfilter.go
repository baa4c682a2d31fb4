package bridge

import (
	"bytes"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// maxMulticast is how many groups a macvtap is told of; a guest that wants more gets all of them.
const maxMulticast = 64

// ApplyRxFilter implements Links. Addresses that go are removed before others are added, so that a change of all of them does
// not need twice the room in the network card.
func (h *Host) ApplyRxFilter(name string, f RxFilter) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return rxFilterError(name, "", err)
	}
	if l.Type() != "macvtap" {
		return virterr.New(virterr.InvalidArg, "interface '%s' is of kind %s and has no filter to set", name, l.Type())
	}
	if len(f.MAC) > 0 && !bytes.Equal(f.MAC, l.Attrs().HardwareAddr) {
		if err := netlink.LinkSetHardwareAddr(l, f.MAC); err != nil {
			return rxFilterError(name, " to address "+f.MAC.String(), err)
		}
	}
	all := f.AllMulticast || f.Promiscuous || len(f.Multicast) > maxMulticast
	if all { // before single groups go, so that nothing is lost in between
		err = netlink.LinkSetAllmulticastOn(l)
		f.Multicast = nil
	}
	if err == nil {
		err = setGroups(l, f.Multicast)
	}
	if err == nil && !all {
		err = netlink.LinkSetAllmulticastOff(l)
	}
	if err == nil && f.Promiscuous {
		err = netlink.SetPromiscOn(l)
	} else if err == nil {
		err = netlink.SetPromiscOff(l)
	}
	return rxFilterError(name, "", err)
}

func rxFilterError(name, what string, err error) error {
	if err == nil {
		return nil
	}
	return virterr.New(virterr.SystemError, "cannot set the receive filter of %s%s: %w", name, what, errno(err))
}

// setGroups makes wanted the multicast addresses that the link receives.
func setGroups(l netlink.Link, wanted []net.HardwareAddr) error {
	index := l.Attrs().Index
	table, err := netlink.NeighList(index, unix.AF_BRIDGE)
	if err != nil {
		return err
	}
	contains := func(list []net.HardwareAddr, mac net.HardwareAddr) bool {
		return slices.ContainsFunc(list, func(m net.HardwareAddr) bool { return bytes.Equal(m, mac) })
	}
	var have []net.HardwareAddr
	for _, n := range table {
		if n.Flags&unix.NTF_SELF == 0 || len(n.HardwareAddr) != 6 || n.HardwareAddr[0]&1 == 0 {
			continue
		}
		if have = append(have, n.HardwareAddr); contains(wanted, n.HardwareAddr) || n.State&unix.NUD_PERMANENT == 0 {
			continue
		}
		// The host's own groups (all-systems) are among them and cannot be removed here: that is no failure.
		if err := netlink.NeighDel(groupEntry(index, n.HardwareAddr)); err != nil && !isMissingEntry(err) {
			return err
		}
	}
	for _, mac := range wanted {
		if !contains(have, mac) {
			if err := netlink.NeighAppend(groupEntry(index, mac)); err != nil {
				return err
			}
		}
	}
	return nil
}

func isMissingEntry(err error) bool { return err == unix.ENOENT || err == unix.EINVAL }

func groupEntry(index int, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT, HardwareAddr: mac}
}
