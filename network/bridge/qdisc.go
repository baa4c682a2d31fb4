package bridge

import (
	"encoding/binary"
	"errors"
	"math"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/network/portconf"
	"virtd/virterr"
)

// Floor is the rate that a network keeps free for one interface.
type Floor struct {
	Class uint16 // of the bridge's classes, from FirstFloorClass on; no two floors have the same
	MAC   net.HardwareAddr
	Rate  uint64 // kilobytes a second, as portconf.Rate has them
}

// FirstFloorClass is the first class of a bridge that a Floor can have. The ones before are the whole and what no floor is for.
const FirstFloorClass = 3

// Handles and classes of what this package makes, as libvirt numbers them.
var (
	rootHandle    = netlink.MakeHandle(1, 0)
	classAll      = netlink.MakeHandle(1, 1)
	classRest     = netlink.MakeHandle(1, 2)
	ingressHandle = netlink.MakeHandle(0xffff, 0)
)

// SetBandwidth limits what the guest behind a tap or macvtap receives and sends, as libvirt does. What leaves the host's link is
// queued there (HTB); what comes in by it beyond its rate is dropped. A tap's link is the other end of the guest's wire: what comes
// to the guest leaves it. A macvtap's is the guest's own end: what comes to the guest comes in by it. Limits that are 0 are taken
// away. Queued packets stay in line when a rate changes.
func (h *Host) SetBandwidth(name string, b portconf.Bandwidth) error {
	return h.shape(name, func(l netlink.Link) error {
		queued, policed := b.In, b.Out
		if l.Type() == "macvtap" {
			queued, policed = policed, queued
		}
		index := l.Attrs().Index
		if err := queue(index, queued); err != nil {
			return err
		}
		return police(index, policed)
	})
}

// queue holds back what leaves by a link beyond a rate.
func queue(index int, r portconf.Rate) error {
	if r.Average == 0 {
		return removeRoot(index)
	}
	if err := ensureRoot(index, 1); err != nil {
		return err
	}
	return netlink.ClassReplace(class(index, rootHandle, classAll, r.Average, r))
}

// ShapeBridge limits what comes from the host into a network, whose interfaces may have floors, and what they send to the host.
// Packets between guests pass no limit.
func (h *Host) ShapeBridge(name string, b portconf.Bandwidth, floors []Floor) error {
	return h.shape(name, func(l netlink.Link) error {
		index := l.Attrs().Index
		if err := queueFloors(index, b.In, floors); err != nil {
			return err
		}
		return police(index, b.Out)
	})
}

// queueFloors is queue with a class for each floor and one for the rest.
func queueFloors(index int, r portconf.Rate, floors []Floor) error {
	if r.Average == 0 {
		return removeRoot(index)
	}
	if err := ensureRoot(index, 2); err != nil {
		return err
	}
	if err := netlink.ClassReplace(class(index, rootHandle, classAll, r.Average, r)); err != nil {
		return err
	}
	rest := r.Average
	for _, f := range floors {
		rest -= min(f.Rate, rest)
	}
	if err := netlink.ClassReplace(class(index, classAll, classRest, max(rest, 1), r)); err != nil {
		return err
	}
	return setFloors(index, r, floors)
}

// shape finds the link and sets its rates with set.
func (h *Host) shape(name string, set func(netlink.Link) error) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = set(l)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot set bandwidth limits on %s: %w%s", name, errno(err), shapeHint(err))
	}
	return nil
}

func shapeHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return " (load the kernel modules sch_htb, sch_ingress, cls_u32 and act_police)"
	case errors.Is(err, unix.EPERM):
		return " (needs CAP_NET_ADMIN)"
	}
	return ""
}

// class makes a class of an HTB queue. Its rate is what it always has; r says at which speed and how much it may send at once.
func class(index int, parent, handle uint32, rate uint64, r portconf.Rate) *netlink.HtbClass {
	ceil := rate
	if parent != rootHandle {
		ceil = r.Average // what the others leave
	}
	if r.Peak > 0 {
		ceil = max(r.Peak, rate)
	}
	return netlink.NewHtbClass(netlink.ClassAttrs{LinkIndex: index, Parent: parent, Handle: handle}, netlink.HtbClassAttrs{
		Rate: bits(rate), Ceil: bits(ceil), Buffer: burstBytes(r.Burst, rate), Quantum: quantum(rate),
	})
}

// bits turns kilobytes into bits.
func bits(kilobytes uint64) uint64 { return kilobytes * 8000 }

// burstBytes is a burst in bytes, 0 for the kernel's own choice. The kernel keeps it as a time in 32 bits, which holds 274
// seconds.
func burstBytes(kibibytes, rate uint64) uint32 {
	const seconds = 200
	return uint32(min(kibibytes<<10, rate*1000*seconds, math.MaxUint32))
}

// quantum is how much a class sends before the next of its level has its turn, in bytes: libvirt's choice, which lets a class
// of little rate send a packet and one of much rate not too many.
func quantum(rate uint64) uint32 {
	const least, most = 1500, 200000
	return uint32(min(max(rate*1000/8/10, least), most))
}

// ensureRoot makes an HTB queue the link's, with packets that nothing classifies in class 1:def. One that is there stays, with
// what waits in it.
func ensureRoot(index int, def uint32) error {
	root, err := rootQdisc(index)
	if err != nil || root != nil {
		return err
	}
	q := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: index, Handle: rootHandle, Parent: netlink.HANDLE_ROOT})
	q.Defcls = def
	return netlink.QdiscReplace(q)
}

// rootQdisc returns the queue that ensureRoot made, or nil.
func rootQdisc(index int) (netlink.Qdisc, error) {
	return findQdisc(index, func(q netlink.Qdisc) bool {
		return q.Type() == "htb" && q.Attrs().Parent == netlink.HANDLE_ROOT && q.Attrs().Handle == rootHandle
	})
}

func findQdisc(index int, is func(netlink.Qdisc) bool) (netlink.Qdisc, error) {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}
	list, err := netlink.QdiscList(link)
	if err != nil {
		return nil, err
	}
	for _, q := range list {
		if q.Attrs().LinkIndex == index && is(q) {
			return q, nil
		}
	}
	return nil, nil
}

func removeRoot(index int) error {
	q, err := rootQdisc(index)
	if err != nil || q == nil {
		return err
	}
	return netlink.QdiscDel(q)
}

// police drops what comes in by a link beyond a rate. Packets that the guest's card leaves to be cut have up to 64 KiB. The
// kernel's first form of a policer, which the library writes, holds 4.29 GB a second: more than a tap carries.
func police(index int, r portconf.Rate) error {
	old, err := policer(index)
	if err == nil && old != nil {
		err = netlink.QdiscDel(old)
	}
	if err != nil || r.Average == 0 {
		return err
	}
	q := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: ingressHandle, Parent: netlink.HANDLE_INGRESS}}
	if err := netlink.QdiscAdd(q); err != nil {
		return err
	}
	p := netlink.NewPoliceAction()
	p.Rate = uint32(min(r.Average*1000, math.MaxUint32))
	burst := r.Burst
	if burst == 0 {
		burst = r.Average
	}
	p.Burst, p.Mtu, p.ExceedAction = max(burstBytes(burst, r.Average), policeMTU), policeMTU, netlink.TC_POLICE_SHOT
	err = netlink.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: ingressHandle, Priority: 1, Protocol: unix.ETH_P_ALL},
		ClassId:     netlink.MakeHandle(0, 1),
		Sel:         &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Nkeys: 1, Keys: []netlink.TcU32Key{{}}}, // whatever it is
		Police:      p,
	})
	if err != nil {
		return errors.Join(err, netlink.QdiscDel(q))
	}
	return nil
}

// policer returns the ingress queue that police made, nil where there is none or it is somebody else's.
func policer(index int) (netlink.Qdisc, error) {
	q, err := findQdisc(index, func(q netlink.Qdisc) bool { return q.Type() == "ingress" })
	if err != nil || q == nil {
		return nil, err
	}
	filters, err := netlink.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}, ingressHandle)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if u, ok := f.(*netlink.U32); ok && u.Police != nil {
			return q, nil
		}
	}
	return nil, nil
}

// policeMTU is the largest packet that passes, in bytes.
const policeMTU = 64 << 10

// setFloors makes the classes of floors and the filters that lead packets to them by their destination, and removes those of
// others.
func setFloors(index int, whole portconf.Rate, floors []Floor) error {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}
	wanted := map[uint32]bool{}
	for _, f := range floors {
		handle := netlink.MakeHandle(1, f.Class)
		wanted[handle] = true
		if err := netlink.ClassReplace(class(index, classAll, handle, f.Rate, portconf.Rate{Average: whole.Average, Peak: whole.Peak})); err != nil {
			return err
		}
		if err := dropFilter(index, f.Class); err != nil {
			return err
		}
		if err := netlink.FilterAdd(toMAC(index, f)); err != nil {
			return err
		}
	}
	list, err := netlink.ClassList(link, 0)
	if err != nil {
		return err
	}
	for _, c := range list {
		major, minor := netlink.MajorMinor(c.Attrs().Handle)
		if c.Attrs().LinkIndex != index || major != 1 || minor < FirstFloorClass || wanted[c.Attrs().Handle] {
			continue
		}
		if err := errors.Join(dropFilter(index, minor), netlink.ClassDel(c)); err != nil {
			return err
		}
	}
	return nil
}

// toMAC classifies packets by the address they go to. Offsets are from the network header, so the six bytes of the destination
// begin at -14 (Ethernet II); keys are words of four bytes at multiples of four.
func toMAC(index int, f Floor) *netlink.U32 {
	m := f.MAC
	return &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: rootHandle, Priority: f.Class, Protocol: unix.ETH_P_ALL},
		ClassId:     netlink.MakeHandle(1, f.Class),
		Sel: &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Nkeys: 2, Keys: []netlink.TcU32Key{
			{Off: -16, Mask: 0x0000ffff, Val: uint32(binary.BigEndian.Uint16(m))},
			{Off: -12, Mask: 0xffffffff, Val: binary.BigEndian.Uint32(m[2:])},
		}},
	}
}

// dropFilter removes the filter of a class, if there is one.
func dropFilter(index int, class uint16) error {
	err := netlink.FilterDel(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: rootHandle, Priority: class, Protocol: unix.ETH_P_ALL},
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
