package daemon

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/network/dhcp"
	"virtd/rpc"
)

func (d *Daemon) networkGetDHCPLeases(_ context.Context, _ *rpc.Call, a *libvirt.NetworkGetDhcpLeasesArgs) (*libvirt.NetworkGetDhcpLeasesRet, error) {
	if err := noFlags(a.Flags, "virNetworkGetDHCPLeases"); err != nil {
		return nil, err
	}
	n, err := d.network(a.Net)
	if err != nil {
		return nil, err
	}
	leases, err := n.Leases()
	if err != nil {
		return nil, err
	}
	bridge, err := n.Bridge()
	if err != nil {
		return nil, err
	}
	ret := &libvirt.NetworkGetDhcpLeasesRet{}
	for _, l := range leases {
		if mac := optional(a.Mac); mac != "" && !strings.EqualFold(mac, l.MAC) {
			continue
		}
		ret.Ret++
		if a.NeedResults != 0 {
			ret.Leases = append(ret.Leases, wireLease(bridge, l))
		}
	}
	return ret, nil
}

// wireLease is a lease as clients see it; one that never ends has the time 0.
func wireLease(bridge string, l dhcp.Lease) libvirt.NetworkDhcpLease {
	out := libvirt.NetworkDhcpLease{
		Iface: bridge, Type: addressIPv4, Mac: libvirt.OptString{l.MAC}, Ipaddr: l.IP.String(), Prefix: uint32(l.Bits),
	}
	if !l.Expires.IsZero() {
		out.Expirytime = l.Expires.Unix()
	}
	if l.IP.Is6() {
		out.Type, out.Iaid = addressIPv6, libvirt.OptString{strconv.FormatUint(uint64(l.IAID), 10)}
	}
	if l.MAC == "" {
		out.Mac = nil
	}
	if l.Name != "" {
		out.Hostname = libvirt.OptString{l.Name}
	}
	if l.ClientID != "" {
		out.Clientid = libvirt.OptString{l.ClientID}
	}
	return out
}

// leasedAddresses answers where a domain's interfaces are by what their networks lease.
func (d *Daemon) leasedAddresses(nics []manager.Interface) []libvirt.DomainInterface {
	var out []libvirt.DomainInterface
	for _, nic := range nics {
		if row, ok := userAddresses(nic); ok {
			out = append(out, row)
		}
		if d.cfg.Networks == nil {
			continue
		}
		n, err := d.cfg.Networks.LookupByName(nic.Network)
		if nic.Network == "" || err != nil {
			continue
		}
		leases, err := n.Leases()
		if err != nil {
			d.log.Warn("the leases of a network cannot be read", "network", nic.Network, "error", err)
			continue
		}
		row := libvirt.DomainInterface{Name: nic.Host, Hwaddr: libvirt.OptString{nic.MAC}}
		for _, l := range leases {
			if strings.EqualFold(l.MAC, nic.MAC) {
				row.Addrs = append(row.Addrs, wireAddress(l.IP, l.Bits))
			}
		}
		if len(row.Addrs) > 0 {
			out = append(out, row)
		}
	}
	return out
}

// userAddresses are those that the process behind an interface of type user gives its guest.
func userAddresses(nic manager.Interface) (libvirt.DomainInterface, bool) {
	row := libvirt.DomainInterface{Name: nic.Host, Hwaddr: libvirt.OptString{nic.MAC}}
	for _, text := range nic.Addresses {
		if p, err := netip.ParsePrefix(text); err == nil {
			row.Addrs = append(row.Addrs, wireAddress(p.Addr(), p.Bits()))
		}
	}
	return row, len(row.Addrs) > 0
}

func wireAddress(a netip.Addr, bits int) libvirt.DomainIPAddr {
	ip := libvirt.DomainIPAddr{Type: addressIPv4, Addr: a.String(), Prefix: uint32(bits)}
	if a.Is6() {
		ip.Type = addressIPv6
	}
	return ip
}
