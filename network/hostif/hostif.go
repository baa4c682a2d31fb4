package hostif

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is one network interface of the host.
type Interface struct {
	Name   string
	MAC    string // six groups of hexadecimal digits; all zero for the loopback
	Active bool   // it is up and has a carrier, or is of a kind without

	kind      kind
	state     string // libvirt's word for the link's state
	mtu       int
	addresses []address
	ports     []*Interface // of a bridge or bond
	tag       int          // of a VLAN
	lower     string       // of a VLAN: the interface it is on
	bondMode  string
}

// kind is libvirt's type of an interface.
type kind string

const (
	kindEthernet kind = "ethernet"
	kindBridge   kind = "bridge"
	kindBond     kind = "bond"
	kindVLAN     kind = "vlan"
)

type address struct {
	ip     string
	prefix int
	v6     bool
}

// List returns the interfaces, sorted by name.
func List() ([]*Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the host's network interfaces: %w", err)
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the host's network interfaces: %w", err)
	}
	return Describe(links, addresses), nil
}

// Describe makes interfaces of what the kernel tells, sorted by name.
func Describe(links []netlink.Link, addresses []netlink.Addr) []*Interface {
	byIndex := map[int]*Interface{}
	names := map[int]string{}
	var list []*Interface
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		if l.Type() == "tuntap" || l.Type() == "tun" {
			continue // a guest's, or some program's end of a tunnel
		}
		i := describe(l)
		byIndex[a.Index] = i
		list = append(list, i)
	}
	for _, l := range links {
		connect(l.Attrs(), byIndex, names)
	}
	for _, a := range addresses {
		if i := byIndex[a.LinkIndex]; i != nil && a.IPNet != nil {
			prefix, _ := a.Mask.Size()
			i.addresses = append(i.addresses, address{a.IP.String(), prefix, a.IP.To4() == nil})
		}
	}
	slices.SortFunc(list, func(a, b *Interface) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func describe(l netlink.Link) *Interface {
	a := l.Attrs()
	i := &Interface{Name: a.Name, MAC: a.HardwareAddr.String(), kind: kindEthernet, mtu: a.MTU, state: linkState(a.OperState)}
	if i.MAC == "" {
		i.MAC = "00:00:00:00:00:00"
	}
	up := a.RawFlags&unix.IFF_UP != 0
	i.Active = up && (a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown)
	switch l := l.(type) {
	case *netlink.Bridge:
		i.kind = kindBridge
	case *netlink.Bond:
		i.kind, i.bondMode = kindBond, l.Mode.String()
	case *netlink.Vlan:
		i.kind, i.tag = kindVLAN, l.VlanId
	}
	return i
}

// connect notes what an interface is on, or a port of.
func connect(a *netlink.LinkAttrs, byIndex map[int]*Interface, names map[int]string) {
	i := byIndex[a.Index]
	if i == nil {
		return
	}
	if i.kind == kindVLAN {
		i.lower = names[a.ParentIndex]
	}
	if master := byIndex[a.MasterIndex]; master != nil && a.MasterIndex != 0 {
		master.ports = append(master.ports, i)
	}
}

// linkState is libvirt's word (virNetDevIfState) for an operational state of RFC 2863.
func linkState(s netlink.LinkOperState) string {
	switch s {
	case netlink.OperUp:
		return "up"
	case netlink.OperDown:
		return "down"
	case netlink.OperNotPresent:
		return "notpresent"
	case netlink.OperLowerLayerDown:
		return "lowerlayerdown"
	case netlink.OperTesting:
		return "testing"
	case netlink.OperDormant:
		return "dormant"
	}
	return "unknown"
}
