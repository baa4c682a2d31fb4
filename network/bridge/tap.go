package bridge

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

const tunDevice = "/dev/net/tun"

// OpenTap implements Links.
func (h *Host) OpenTap(c TapConfig) (*Tap, error) {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Queues < 1 || c.Queues > MaxQueues {
		return nil, virterr.New(virterr.ConfigUnsupported, "interface with %d queues: 1 to %d are possible", c.Queues, MaxQueues)
	}
	if !c.Unmanaged && len(c.MAC) > 0 && c.MAC[0] == 0xfe {
		return nil, virterr.New(virterr.ConfigUnsupported,
			"Unable to use MAC address starting with reserved value 0xFE - '%s' - ", c.MAC)
	}
	if c.Bridge != "" && c.MTU == 0 { // before anything is made: a missing bridge is the commonest mistake
		mtu, err := bridgeMTU(c.Bridge, c.Name)
		if err != nil {
			return nil, err
		}
		c.MTU = mtu
	}
	if c.Unmanaged {
		t, err := h.openExisting(c)
		if err != nil {
			return nil, err
		}
		if c.Bandwidth.Limited() {
			err = h.SetBandwidth(t.Name, c.Bandwidth)
		}
		if err == nil && c.Coalesce != 0 {
			err = h.SetCoalesce(t.Name, c.Coalesce)
		}
		if err != nil {
			t.Close()
		}
		return t, err
	}
	t, created, err := h.createTap(c)
	if err != nil {
		return nil, err
	}
	if err := h.setUpTap(t, c); err != nil {
		t.Close()
		if created && c.Persistent {
			h.Delete(t.Name)
		}
		return nil, err
	}
	return t, nil
}

// openExisting opens the device that the administrator prepared.
func (h *Host) openExisting(c TapConfig) (*Tap, error) {
	if c.Name == "" {
		return nil, virterr.New(virterr.ConfigUnsupported, "target dev must be supplied when managed='no'")
	}
	l, err := netlink.LinkByName(c.Name)
	if isMissing(err) {
		return nil, virterr.New(virterr.ConfigUnsupported,
			"target managed='no' but specified dev doesn't exist: '%s' (make it with: ip tuntap add dev %s mode tap vnet_hdr)", c.Name, c.Name)
	}
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Cannot get interface '%s': %w", c.Name, errno(err))
	}
	switch l := l.(type) {
	case *netlink.Macvtap:
		return openMacvtapQueues(l.Attrs(), c.Queues)
	case *netlink.Tuntap:
		return attachTap(l, c)
	default:
		return nil, virterr.New(virterr.ConfigUnsupported, "interface '%s' is of kind %s, not a tap", c.Name, l.Type())
	}
}

// createTap opens all queues of a new tap, or of an existing idle one when c names it.
func (h *Host) createTap(c TapConfig) (t *Tap, created bool, err error) {
	pattern := c.Name
	if pattern == "" {
		pattern = tapPattern
	}
	if !strings.Contains(pattern, "%d") {
		if err := checkName(c.Name); err != nil {
			return nil, false, err
		}
		if l, err := netlink.LinkByName(c.Name); err == nil {
			tun, ok := l.(*netlink.Tuntap)
			if !ok {
				return nil, false, virterr.New(virterr.SystemError,
					"Unable to create tap device %s: %w (an interface of kind %s has that name)", c.Name, errno(unix.EEXIST), l.Type())
			}
			t, err := attachTap(tun, c)
			return t, false, err
		}
		t, err := openTapQueues(c, c.Name, c.Queues > 1, true)
		return t, true, err
	}
	for range 100 {
		name, err := h.generate(pattern)
		if err != nil {
			return nil, false, err
		}
		t, err := openTapQueues(c, name, c.Queues > 1, true)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			continue // somebody took the name in between
		}
		return t, true, err
	}
	return nil, false, virterr.New(virterr.InternalError, "no unused %s names available", pattern)
}

// attachTap opens the queues of an existing tap. The kernel wants the multi_queue flag it was made with.
func attachTap(tun *netlink.Tuntap, c TapConfig) (*Tap, error) {
	if tun.Mode != netlink.TUNTAP_MODE_TAP {
		return nil, virterr.New(virterr.ConfigUnsupported, "interface '%s' is a tun device, not a tap", c.Name)
	}
	multi := tun.Flags&netlink.TUNTAP_MULTI_QUEUE != 0
	if c.Queues > 1 && !multi {
		return nil, virterr.New(virterr.ConfigUnsupported,
			"tap device %s has one queue and %d are wanted: make it with 'ip tuntap add dev %s mode tap multi_queue vnet_hdr'", c.Name, c.Queues, c.Name)
	}
	return openTapQueues(c, c.Name, multi, false)
}

// openTapQueues opens the queues of the tap called name. With exclusive it must not exist before.
func openTapQueues(c TapConfig, name string, multi, exclusive bool) (*Tap, error) {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	t := &Tap{Name: name}
	for i := range c.Queues {
		f, err := openQueue(cmp.Or(c.Device, tunDevice), name, flags, exclusive && i == 0)
		if err != nil {
			t.Close()
			return nil, err
		}
		t.Files = append(t.Files, f)
	}
	if err := t.prepare(); err != nil {
		t.Close()
		return nil, err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Close()
		return nil, virterr.New(virterr.SystemError, "Unable to get index for interface %s: %w", name, errno(err))
	}
	t.Index = l.Attrs().Index
	return t, nil
}

func openQueue(device, name string, flags uint16, exclusive bool) (*os.File, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Unable to open %s, is tun module loaded?: %w", device, errno(err))
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		if exclusive {
			flags |= unix.IFF_TUN_EXCL
		}
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, tapError(name, err)
	}
	return os.NewFile(uintptr(fd), device+":"+name), nil
}

// tapError explains why the kernel refused a tap.
func tapError(name string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EBUSY):
		hint = " (all its queues are in use" + holders(name) + ")"
	case errors.Is(err, unix.EPERM):
		hint = " (needs CAP_NET_ADMIN, or a tap that belongs to this user)"
	case errors.Is(err, unix.EINVAL):
		hint = " (it exists with other flags: vnet_hdr or multi_queue differ)"
	case errors.Is(err, unix.E2BIG):
		hint = " (it has as many queues as the kernel allows)"
	}
	return virterr.New(virterr.SystemError, "Unable to create tap device %s: %w%s", name, errno(err), hint)
}

// offloadCandidates are the TUN_F_* sets that kernels of different age take, best first (linux/if_tun.h). USO came with
// Linux 6.2. UFO is left out: kernels from 4.14 on take the bit and do nothing with it.
var offloadCandidates = []uint{
	offloadBase | unix.TUN_F_USO4 | unix.TUN_F_USO6,
	offloadBase,
}

const offloadBase = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN

// prepare sets the header size, which each queue of a macvtap has for itself, and learns which offloads the device takes.
// These are a property of the device; the engine switches on those that its guest's driver accepts.
func (t *Tap) prepare() error {
	for _, f := range t.Files {
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.TUNSETVNETHDRSZ, VnetHeaderSize); err != nil {
			return virterr.New(virterr.SystemError, "Unable to set the vnet header size of %s: %w", t.Name, errno(err))
		}
	}
	fd := int(t.Files[0].Fd())
	for _, set := range offloadCandidates {
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(set)) == nil {
			t.Offloads = set
			break
		}
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return virterr.New(virterr.SystemError, "Unable to set the offloads of %s: %w", t.Name, errno(err))
	}
	return nil
}

// setUpTap applies everything that is not a property of an open queue. The order is libvirt's: the MTU before the bridge,
// because a bridge takes the smallest MTU of its ports.
func (h *Host) setUpTap(t *Tap, c TapConfig) error {
	fd := int(t.Files[0].Fd())
	if c.Owner >= 0 {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, c.Owner); err != nil {
			return virterr.New(virterr.SystemError, "Unable to set the owner of tap device %s: %w", t.Name, errno(err))
		}
	}
	l, err := netlink.LinkByIndex(t.Index)
	if err != nil {
		return virterr.New(virterr.SystemError, "Cannot get interface '%s': %w", t.Name, errno(err))
	}
	if len(c.MAC) > 0 {
		mac := append(net.HardwareAddr(nil), c.MAC...)
		mac[0] = 0xfe
		if err := netlink.LinkSetHardwareAddr(l, mac); err != nil {
			return virterr.New(virterr.SystemError, "Cannot set interface MAC on '%s': %w", t.Name, errno(err))
		}
	}
	if c.MTU > 0 {
		if err := netlink.LinkSetMTU(l, c.MTU); err != nil {
			return virterr.New(virterr.SystemError, "Cannot set interface MTU on '%s': %w", t.Name, mtuHint(c.MTU, err))
		}
	}
	if c.Bridge != "" {
		if err := h.Attach(c.Bridge, t.Name); err != nil {
			return err
		}
		if c.Isolated {
			if err := h.Isolate(t.Name, true); err != nil {
				return err
			}
		}
		if c.VLAN.Given() {
			if err := h.SetVLAN(c.Bridge, t.Name, c.VLAN); err != nil {
				return err
			}
		}
	}
	if c.Bandwidth.Limited() {
		if err := h.SetBandwidth(t.Name, c.Bandwidth); err != nil {
			return err
		}
	}
	if c.Coalesce != 0 {
		if err := h.SetCoalesce(t.Name, c.Coalesce); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return virterr.New(virterr.SystemError, "Cannot set interface flags on '%s': %w", t.Name, errno(err))
	}
	if c.Persistent {
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			return virterr.New(virterr.SystemError, "Unable to set tap device %s to persistent: %w", t.Name, errno(err))
		}
	}
	return nil
}

// holders names the processes that hold queues of a tap, from the "iff:" line of their descriptors' fdinfo, as far as
// this process may look.
func holders(tap string) string {
	want := []byte("iff:\t" + tap + "\n")
	procs, _ := os.ReadDir("/proc")
	var found []string
	for _, p := range procs {
		if p.Name()[0] < '1' || p.Name()[0] > '9' {
			continue
		}
		if holdsTap("/proc/"+p.Name()+"/fdinfo", want) {
			comm, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
			found = append(found, fmt.Sprintf("%s, pid %s", strings.TrimSpace(string(comm)), p.Name()))
		}
	}
	if len(found) == 0 {
		return " by another process"
	}
	return " by " + strings.Join(found, "; ")
}

func holdsTap(dir string, want []byte) bool {
	infos, _ := os.ReadDir(dir)
	for _, f := range infos {
		if data, err := os.ReadFile(dir + "/" + f.Name()); err == nil && strings.Contains(string(data), string(want)) {
			return true
		}
	}
	return false
}
