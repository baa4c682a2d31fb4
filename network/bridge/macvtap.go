package bridge

import (
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
	mode, ok := macvtapModes[c.Mode]
	if !ok {
		return nil, virterr.New(virterr.ConfigUnsupported, "macvtap mode '%s' is none of vepa, bridge, private, passthrough", c.Mode)
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	parent, err := netlink.LinkByName(c.Parent)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Unable to get index for interface %s: %w", c.Parent, errno(err))
	}
	attrs := netlink.NewLinkAttrs()
	attrs.ParentIndex, attrs.HardwareAddr, attrs.MTU = parent.Attrs().Index, c.MAC, c.MTU
	link := &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: mode}}
	if err := h.addMacvtap(link, c); err != nil {
		return nil, err
	}
	t, err := h.finishMacvtap(link, c)
	if err != nil {
		h.Delete(link.Name)
		return nil, err
	}
	return t, nil
}

func (h *Host) addMacvtap(link *netlink.Macvtap, c MacvtapConfig) error {
	if c.Name != "" {
		if err := checkName(c.Name); err != nil {
			return err
		}
	}
	var err error
	for range 100 {
		if link.Name = c.Name; link.Name == "" {
			if link.Name, err = h.generate(macvtapPattern); err != nil {
				return err
			}
		}
		if err = netlink.LinkAdd(link); err == nil {
			return nil
		}
		if c.Name != "" || !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	hint := ""
	if errors.Is(err, unix.EBUSY) {
		hint = " (the interface is a port of a bridge, or has a passthrough macvtap already)"
	}
	return virterr.New(virterr.SystemError, "error creating macvtap interface %s@%s (%s): %w%s", link.Name, c.Parent, c.MAC, errno(err), hint)
}

func (h *Host) finishMacvtap(link *netlink.Macvtap, c MacvtapConfig) (*Tap, error) {
	l, err := netlink.LinkByName(link.Name)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Unable to get index for interface %s: %w", link.Name, errno(err))
	}
	if err := h.SetUp(link.Name, true); err != nil {
		return nil, err
	}
	return openMacvtapQueues(l.Attrs(), c.Queues)
}

// openMacvtapQueues opens the character device of a macvtap once for each queue.
func openMacvtapQueues(a *netlink.LinkAttrs, n int) (*Tap, error) {
	t := &Tap{Name: a.Name, Index: a.Index}
	path := fmt.Sprintf("/dev/tap%d", a.Index)
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if n > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range n {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Close()
			return nil, virterr.New(virterr.SystemError, "cannot open macvtap tap device %s of %s: %w", path, a.Name, errno(err))
		}
		t.Files = append(t.Files, os.NewFile(uintptr(fd), path))
		ifr, err := unix.NewIfreq(a.Name)
		if err == nil {
			ifr.SetUint16(flags)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		if err != nil {
			t.Close()
			return nil, virterr.New(virterr.SystemError, "cannot set the flags of macvtap tap device %s: %w", path, errno(err))
		}
	}
	if err := t.prepare(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}
