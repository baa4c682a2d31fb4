package daemon

import (
	"context"
	"math/bits"
	"net"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) registerDevices(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainAttachDevice, d.domainAttachDevice)
	on(reg, rpc.ProcDomainAttachDeviceFlags, d.domainAttachDeviceFlags)
	on(reg, rpc.ProcDomainDetachDevice, d.domainDetachDevice)
	on(reg, rpc.ProcDomainDetachDeviceFlags, d.domainDetachDeviceFlags)
	on(reg, rpc.ProcDomainDetachDeviceAlias, d.domainDetachDeviceAlias)
	on(reg, rpc.ProcDomainUpdateDeviceFlags, d.domainUpdateDeviceFlags)
	on(reg, rpc.ProcDomainBlockResize, d.domainBlockResize)
	on(reg, rpc.ProcDomainInjectNmi, d.domainInjectNMI)
	on(reg, rpc.ProcDomainSendKey, d.domainSendKey)
	on(reg, rpc.ProcDomainInterfaceAddresses, d.domainInterfaceAddresses)
}

// The calls without flags are about the running domain.

func (d *Daemon) domainAttachDevice(ctx context.Context, _ *rpc.Call, a *libvirt.DomainAttachDeviceArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.AttachDevice(ctx, a.XML, manager.AffectLive)
}

func (d *Daemon) domainAttachDeviceFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainAttachDeviceFlagsArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.AttachDevice(ctx, a.XML, manager.Affect(a.Flags))
}

func (d *Daemon) domainDetachDevice(ctx context.Context, _ *rpc.Call, a *libvirt.DomainDetachDeviceArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.DetachDevice(ctx, a.XML, manager.AffectLive)
}

func (d *Daemon) domainDetachDeviceFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainDetachDeviceFlagsArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.DetachDevice(ctx, a.XML, manager.Affect(a.Flags))
}

func (d *Daemon) domainDetachDeviceAlias(ctx context.Context, _ *rpc.Call, a *libvirt.DomainDetachDeviceAliasArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.DetachDeviceAlias(ctx, a.Alias, manager.Affect(a.Flags))
}

func (d *Daemon) domainUpdateDeviceFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainUpdateDeviceFlagsArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.UpdateDevice(ctx, a.XML, manager.Affect(a.Flags))
}

// blockResizeBytes says that the size is in bytes, not KiB.
const blockResizeBytes = 1

func (d *Daemon) domainBlockResize(ctx context.Context, _ *rpc.Call, a *libvirt.DomainBlockResizeArgs) (*none, error) {
	if err := onlyFlags(uint32(a.Flags), blockResizeBytes, "virDomainBlockResize"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	size := a.Size
	if a.Flags&blockResizeBytes == 0 {
		high, low := bits.Mul64(size, 1024)
		if high != 0 {
			return nil, virterr.New(virterr.InvalidArg, "size of disk '%s' is %d KiB, which is too much", a.Disk, a.Size)
		}
		size = low
	}
	return nil, dom.ResizeDisk(ctx, a.Disk, size)
}

func (d *Daemon) domainInjectNMI(ctx context.Context, _ *rpc.Call, a *libvirt.DomainInjectNmiArgs) (*none, error) {
	if err := noFlags(a.Flags, "virDomainInjectNMI"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.InjectNMI(ctx)
}

// Where INTERFACE_ADDRESSES may look (virDomainInterfaceAddressesSource).
const (
	addressesLease = 0
	addressesAgent = 1
	addressesARP   = 2
)

// Types of addresses (virIPAddrType).
const (
	addressIPv4 = 0
	addressIPv6 = 1
)

// domainInterfaceAddresses answers by what virtual networks lease, or from this host's neighbour tables.
func (d *Daemon) domainInterfaceAddresses(_ context.Context, _ *rpc.Call, a *libvirt.DomainInterfaceAddressesArgs) (*libvirt.DomainInterfaceAddressesRet, error) {
	if err := noFlags(a.Flags, "virDomainInterfaceAddresses"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	if !dom.Active() {
		return nil, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	switch a.Source {
	case addressesLease, addressesARP:
	case addressesAgent:
		return nil, virterr.New(virterr.ArgumentUnsupported, "QEMU guest agent is not configured")
	default:
		return nil, virterr.New(virterr.ArgumentUnsupported, "Unknown IP address data source %d", a.Source)
	}
	nics, err := dom.Interfaces()
	if err != nil {
		return nil, err
	}
	if a.Source == addressesLease {
		return &libvirt.DomainInterfaceAddressesRet{Ifaces: d.leasedAddresses(nics)}, nil
	}
	ret := &libvirt.DomainInterfaceAddressesRet{}
	for _, n := range nics {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil {
			continue
		}
		addrs, err := d.cfg.Neighbours(mac)
		if err != nil {
			return nil, err
		}
		if len(addrs) == 0 {
			continue
		}
		row := libvirt.DomainInterface{Name: n.Host, Hwaddr: libvirt.OptString{n.MAC}}
		for _, addr := range addrs {
			row.Addrs = append(row.Addrs, wireAddress(addr, 0))
		}
		ret.Ifaces = append(ret.Ifaces, row)
	}
	return ret, nil
}
