package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Host is the links of the network namespace the calling thread is in. The zero value is ready.
type Host struct {
	mu   sync.Mutex
	next map[string]int // next number to try for each name pattern
}

var _ Links = (*Host)(nil)

// Prefixes of generated names, as libvirt's.
const (
	tapPattern     = "vnet%d"
	macvtapPattern = "macvtap%d"
)

// generate returns the next name of the pattern that no link has. Numbers are not reused until they wrap, so that a name
// in a log means one device. A racing creator is caught by the caller's exclusive creation, which asks again.
func (h *Host) generate(pattern string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = map[string]int{}
	}
	for range 1 << 16 {
		n := h.next[pattern]
		h.next[pattern] = (n + 1) & 0xffffff
		name := strings.Replace(pattern, "%d", fmt.Sprint(n), 1)
		if err := checkName(name); err != nil {
			h.next[pattern] = 0
			return "", err
		}
		_, err := netlink.LinkByName(name)
		if isMissing(err) {
			return name, nil
		}
		if err != nil {
			return "", virterr.New(virterr.SystemError, "Unable to look for a free name of the form %s: %w", pattern, errno(err))
		}
	}
	return "", virterr.New(virterr.InternalError, "no unused %s names available", pattern)
}

// checkName refuses what the kernel would refuse or, worse, change (dev_valid_name).
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\v\f\r%") {
		return virterr.New(virterr.InvalidArg,
			"network device name '%s' is not valid: 1 to %d characters without '/', ':', '%%' and white space", name, unix.IFNAMSIZ-1)
	}
	return nil
}

// isMissing tells that a lookup by name found no link.
func isMissing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// errno turns err into the form libvirt prints: strerror's text with a capital letter. It keeps the number for errors.Is.
func errno(err error) error {
	if isMissing(err) {
		return textErrno{unix.ENODEV}
	}
	var e unix.Errno
	if errors.As(err, &e) {
		return textErrno{e}
	}
	return err
}

type textErrno struct{ unix.Errno }

func (e textErrno) Error() string {
	s := []byte(e.Errno.Error())
	copy(s, bytes.ToUpper(s[:1]))
	return string(s)
}

func (e textErrno) Unwrap() error { return e.Errno }

// SetMTU implements Links.
func (h *Host) SetMTU(name string, mtu int) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMTU(l, mtu)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Cannot set interface MTU on '%s': %w", name, mtuHint(mtu, err))
	}
	return nil
}

func mtuHint(mtu int, err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w (%d is outside what the device takes)", errno(err), mtu)
	}
	return errno(err)
}

// SetUp implements Links.
func (h *Host) SetUp(name string, up bool) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		if up {
			err = netlink.LinkSetUp(l)
		} else {
			err = netlink.LinkSetDown(l)
		}
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "Cannot set interface flags on '%s': %w", name, errno(err))
	}
	return nil
}

// Delete implements Links.
func (h *Host) Delete(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		switch l.Type() {
		case "bridge", "tuntap", "macvtap":
			err = netlink.LinkDel(l)
		default:
			return virterr.New(virterr.InvalidArg, "interface '%s' is of kind %s and not virtd's to delete", name, l.Type())
		}
	}
	if err != nil && !isMissing(err) {
		return virterr.New(virterr.SystemError, "Unable to delete interface '%s': %w", name, errno(err))
	}
	return nil
}

// Link implements Links.
func (h *Host) Link(name string) (Link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return Link{}, virterr.New(virterr.SystemError, "Cannot get interface '%s': %w", name, errno(err))
	}
	return describe(l, func(index int) string {
		if m, err := netlink.LinkByIndex(index); err == nil {
			return m.Attrs().Name
		}
		return ""
	}), nil
}

// List implements Links.
func (h *Host) List() ([]Link, error) {
	links, err := netlink.LinkList()
	for try := 0; try < 20 && errors.Is(err, netlink.ErrDumpInterrupted); try++ { // links came or went meanwhile
		links, err = netlink.LinkList()
	}
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Cannot list network interfaces: %w", errno(err))
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	out := make([]Link, 0, len(links))
	for _, l := range links {
		out = append(out, describe(l, func(index int) string { return names[index] }))
	}
	return out, nil
}

func describe(l netlink.Link, nameOf func(int) string) Link {
	a := l.Attrs()
	out := Link{Name: a.Name, Index: a.Index, Kind: l.Type(), MTU: a.MTU, MAC: a.HardwareAddr, Up: a.RawFlags&unix.IFF_UP != 0}
	if a.MasterIndex != 0 {
		out.Bridge = nameOf(a.MasterIndex)
	}
	return out
}

// GuestStats implements Links. What the host receives from a tap is what the guest sent; a macvtap counts as an
// interface of the guest already.
func (h *Host) GuestStats(name string) (Stats, error) {
	l, err := netlink.LinkByName(name)
	if err == nil && l.Attrs().Statistics == nil {
		err = unix.ENODATA
	}
	if err != nil {
		return Stats{}, virterr.New(virterr.SystemError, "Cannot get statistics of interface '%s': %w", name, errno(err))
	}
	s := l.Attrs().Statistics
	in := Stats{
		RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxErrors: s.RxErrors, RxDropped: s.RxDropped,
		TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxErrors: s.TxErrors, TxDropped: s.TxDropped,
	}
	if l.Type() == "macvtap" {
		return in, nil
	}
	return Stats{
		RxBytes: in.TxBytes, RxPackets: in.TxPackets, RxErrors: in.TxErrors, RxDropped: in.TxDropped,
		TxBytes: in.RxBytes, TxPackets: in.RxPackets, TxErrors: in.RxErrors, TxDropped: in.RxDropped,
	}, nil
}
