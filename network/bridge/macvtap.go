package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

var macvtapModes = map[MacvtapMode]netlink.MacvlanMode{
	"":                 netlink.MACVLAN_MODE_VEPA, // libvirt's default
	MacvtapVEPA:        netlink.MACVLAN_MODE_VEPA,
	MacvtapBridge:      netlink.MACVLAN_MODE_BRIDGE,
	MacvtapPrivate:     netlink.MACVLAN_MODE_PRIVATE,
	MacvtapPassthrough: netlink.MACVLAN_MODE_PASSTHRU,
}

// OpenMacvtap implements Links.
func (h *Host) OpenMacvtap(c MacvtapConfig) (*Tap, error) {
	if _, ok := macvtapModes[c.Mode]; !ok {
		return nil, virterr.New(virterr.ConfigUnsupported, "macvtap mode '%s' is none of vepa, bridge, private, passthrough", c.Mode)
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Queues < 1 || c.Queues > MaxQueues {
		return nil, virterr.New(virterr.ConfigUnsupported, "interface with %d queues: 1 to %d are possible", c.Queues, MaxQueues)
	}
	parent, err := netlink.LinkByName(c.Parent)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Unable to get index for interface %s: %w (<source dev=> names a network link of this host)", c.Parent, errno(err))
	}
	link, err := h.addMacvtap(parent, c)
	if err != nil {
		return nil, err
	}
	t, err := h.finishMacvtap(parent, link, c)
	if err != nil {
		return nil, errors.Join(err, h.DeleteMacvtap(link.Attrs().Name, link.Attrs().Index, nil))
	}
	return t, nil
}

// addMacvtap makes the link, under a name that is on record before.
func (h *Host) addMacvtap(parent netlink.Link, c MacvtapConfig) (netlink.Link, error) {
	if c.Name != "" {
		if err := checkName(c.Name); err != nil {
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.ParentIndex, attrs.HardwareAddr, attrs.MTU = parent.Attrs().Index, c.MAC, c.MTU
	link := &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: macvtapModes[c.Mode]}}
	var err error
	for range 100 {
		if link.Name = c.Name; link.Name == "" {
			if link.Name, err = h.generate(macvtapPattern); err != nil {
				return nil, err
			}
		}
		if c.Note != nil {
			if err := c.Note(link.Name, 0); err != nil {
				return nil, err
			}
		}
		if err = netlink.LinkAdd(link); err == nil {
			return h.noteMacvtap(link.Name, c)
		}
		if c.Name != "" || !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	return nil, virterr.New(virterr.SystemError, "error creating macvtap interface %s@%s (%s): %w%s", link.Name, c.Parent, c.MAC, errno(err), macvtapHint(parent, c, err))
}

// noteMacvtap learns the index of a link that was just made and has it noted.
func (h *Host) noteMacvtap(name string, c MacvtapConfig) (netlink.Link, error) {
	made, err := netlink.LinkByName(name)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Unable to get index for interface %s: %w", name, errno(err))
	}
	if c.Note != nil {
		if err := c.Note(name, made.Attrs().Index); err != nil {
			return nil, errors.Join(err, h.DeleteMacvtap(name, made.Attrs().Index, nil))
		}
	}
	return made, nil
}

// macvtapHint says what a user can do about a macvtap that the kernel refused.
func macvtapHint(parent netlink.Link, c MacvtapConfig, err error) string {
	switch {
	case errors.Is(err, unix.EEXIST):
		return " (another interface has that name)"
	case errors.Is(err, unix.EPERM):
		return " (needs CAP_NET_ADMIN: a macvtap needs the system's virtd, a session has <interface type='user'>)"
	case errors.Is(err, unix.EOPNOTSUPP):
		return " (load the kernel module macvtap)"
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Sprintf(" (another link on %s has the address %s)", c.Parent, c.MAC)
	}
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINVAL) {
		return ""
	}
	if m := parent.Attrs().MasterIndex; m != 0 {
		name := fmt.Sprint(m)
		if l, err := netlink.LinkByIndex(m); err == nil {
			name = l.Attrs().Name
		}
		return fmt.Sprintf(" (%s is a port of %s; use that as a bridge, or take the port out)", c.Parent, name)
	}
	links, _ := netlink.LinkList()
	for _, l := range links {
		mode, ok := macvlanMode(l)
		if !ok || l.Attrs().ParentIndex != parent.Attrs().Index {
			continue
		}
		if c.Mode == MacvtapPassthrough || mode == netlink.MACVLAN_MODE_PASSTHRU {
			return fmt.Sprintf(" (%s is in use by %s; mode passthrough has a device for itself)", c.Parent, l.Attrs().Name)
		}
	}
	return ""
}

func macvlanMode(l netlink.Link) (netlink.MacvlanMode, bool) {
	switch l := l.(type) {
	case *netlink.Macvtap:
		return l.Mode, true
	case *netlink.Macvlan:
		return l.Mode, true
	}
	return 0, false
}

// finishMacvtap sets a new macvtap up and opens its queues. The host's stack has no part in it: an IPv6 address of the host
// under the guest's MAC address would take the guest's own, so the host has none there. Multicast reaches the guest as on a
// tap, without which IPv6 would not work; a trusted filter of the guest narrows that (ApplyRxFilter).
func (h *Host) finishMacvtap(parent, link netlink.Link, c MacvtapConfig) (*Tap, error) {
	name := link.Attrs().Name
	setting := "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6"
	if err := os.WriteFile(setting, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, virterr.New(virterr.SystemError, "cannot switch IPv6 of the host off on %s: %w", name, err)
	}
	if err := netlink.LinkSetAllmulticastOn(link); err != nil {
		return nil, virterr.New(virterr.SystemError, "Cannot set interface flags on '%s': %w", name, errno(err))
	}
	if c.Mode == MacvtapPassthrough && c.MAC != nil && !bytes.Equal(link.Attrs().HardwareAddr, c.MAC) { // made with the parent's, which changes too
		if err := netlink.LinkSetHardwareAddr(link, c.MAC); err != nil {
			return nil, virterr.New(virterr.SystemError, "Cannot set interface MAC to %s on '%s': %w (%s keeps its own; of a virtual function the card "+
				"may have to set it: vctl sriov set %s --mac %s)", c.MAC, c.Parent, errno(err), c.Parent, c.Parent, c.MAC)
		}
	}
	if c.Bandwidth.Limited() { // before anything can pass
		if err := h.SetBandwidth(name, c.Bandwidth); err != nil {
			return nil, err
		}
	}
	if c.Mode == MacvtapPassthrough && parent.Attrs().RawFlags&unix.IFF_UP == 0 { // it is the guest's alone, and so virtd's to switch on
		if err := h.SetUp(c.Parent, true); err != nil {
			return nil, err
		}
	}
	if err := h.SetUp(name, true); err != nil {
		if errors.Is(err, unix.ENETDOWN) {
			return nil, virterr.New(virterr.SystemError, "Cannot set interface flags on '%s': %w (%s is down: ip link set %s up)", name, errno(unix.ENETDOWN), c.Parent, c.Parent)
		}
		if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EBUSY) {
			return nil, virterr.New(virterr.SystemError, "Cannot set interface flags on '%s': %w (another link on %s has the address %s)", name, errno(err), c.Parent, c.MAC)
		}
		return nil, err
	}
	return openMacvtapQueues(link.Attrs(), c.Queues)
}

// DeleteMacvtap implements Links.
func (h *Host) DeleteMacvtap(name string, index int, mac []byte) error {
	l, err := netlink.LinkByName(name)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Cannot get interface '%s': %w", name, errno(err))
	}
	a := l.Attrs()
	if l.Type() != "macvtap" || index != 0 && a.Index != index || index == 0 && !bytes.Equal(a.HardwareAddr, mac) {
		return nil // somebody else's, who has the name now
	}
	if err := netlink.LinkDel(l); err != nil && !isMissing(err) {
		return virterr.New(virterr.SystemError, "Unable to delete interface '%s': %w", name, errno(err))
	}
	return nil
}
