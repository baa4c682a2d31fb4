package manager

import (
	"context"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// DeviceForce is the flag of UpdateDevice and DetachDevice that forces a medium out (VIR_DOMAIN_DEVICE_MODIFY_FORCE); no
// device here can be locked in, so it is accepted.
const DeviceForce Affect = 4

const deviceFlagKnown = affectBoth | DeviceForce

// device reads the arguments of a call about one device. live says that the running domain is meant, perhaps among others.
func (d *Domain) device(xml string, flags Affect, function string) (dev *domain.Device, live bool, err error) {
	if dev, err = parseDevice(xml, flags, function); err != nil {
		return nil, false, err
	}
	live, _, err = d.targets(flags)
	return dev, live, err
}

// UpdateDevice replaces a disk or an interface of the persistent configuration. In a running domain it plugs an interface's
// cable in or pulls it, moves it to another bridge, and changes what its host end may carry; every other difference is OperationUnsupported.
func (d *Domain) UpdateDevice(ctx context.Context, xml string, flags Affect) error {
	dev, live, err := d.device(xml, flags, "qemuDomainUpdateDeviceFlags")
	if err != nil {
		return err
	}
	flags &^= DeviceForce
	edit := func(def *domain.Definition) (*domain.Definition, error) { return def.UpdateDevice(dev) }
	if !live {
		return d.change(ctx, "update-device", flags, edit, nil)
	}
	_, current, err := d.engine()
	if err != nil {
		return err
	}
	change, alias, err := liveUpdate(current, dev)
	if err != nil {
		return err
	}
	edit = func(def *domain.Definition) (*domain.Definition, error) {
		if change.Link {
			if def, err = def.SetLinkState(change.MAC, dev.LinkUp()); err != nil {
				return nil, err
			}
		}
		if !change.Host {
			return def, nil
		}
		return def.SetHostEnd(change.MAC, dev)
	}
	return d.change(ctx, "update-device", flags, edit, func(ctx context.Context, r *run) error {
		if change.Host {
			if err := d.updateInterface(ctx, r, alias, edit); err != nil {
				return err
			}
		}
		if !change.Link {
			return nil
		}
		return r.inst.SetLink(ctx, alias, dev.LinkUp())
	})
}

// liveUpdate finds the interface that dev describes, and what of it shall change.
func liveUpdate(live *domain.Definition, dev *domain.Device) (change domain.LiveUpdate, alias string, err error) {
	refuse := virterr.New(virterr.OperationUnsupported, "live update of device '%s' is not supported, except the link state, "+
		"bridge, VLANs, isolation, bandwidth, filter and coalescing of an interface; change the configuration (--config)", dev.Kind())
	if dev.Kind() != "interface" {
		return change, "", refuse
	}
	change, only, err := live.LiveUpdate(dev)
	if err != nil {
		return change, "", err
	}
	if !only {
		return change, "", refuse
	}
	devices := live.View().Devices
	for i := range devices.Interfaces {
		if n := &devices.Interfaces[i]; n.MAC != nil && n.Alias != nil && n.MAC.Address == change.MAC {
			return change, n.Alias.Name, nil
		}
	}
	return change, "", virterr.New(virterr.InternalError, "interface %s of a running domain has no alias", change.MAC)
}

// ResizeDisk changes the size of a running domain's disk, which is named by its target or its path, to bytes, rounded up to
// whole sectors. The guest is told.
func (d *Domain) ResizeDisk(ctx context.Context, disk string, bytes uint64) error {
	const sector = 512
	if bytes > 1<<63-1 {
		return virterr.New(virterr.InvalidArg, "size of disk '%s' must be less than %d bytes, not %d", disk, uint64(1<<63-1), bytes)
	}
	bytes = (bytes + sector - 1) / sector * sector
	return d.withEngine(ctx, "block-resize", func(ctx context.Context, inst driver.Instance) error {
		_, live, err := d.engine()
		if err != nil {
			return err
		}
		found, ok := findDisk(live, disk)
		if !ok {
			return virterr.New(virterr.InvalidArg, "disk '%s' was not found in the domain config", disk)
		}
		return inst.ResizeDisk(ctx, found.Alias, bytes)
	})
}

// InjectNMI sends a non-maskable interrupt to the guest.
func (d *Domain) InjectNMI(ctx context.Context) error {
	return d.withEngine(ctx, "inject-nmi", func(ctx context.Context, inst driver.Instance) error { return inst.InjectNMI(ctx) })
}

// Interface is an interface of a running domain: the device on the host and the guest's address.
type Interface struct {
	Host, MAC string
	Network   string   // the virtual network it is on, or ""
	Addresses []string // with lengths of subnets, of an interface of type user, as far as they are known
}

// Interfaces returns the interfaces of a running domain that have a device on the host, or a process behind them: these go by
// their alias.
func (d *Domain) Interfaces() ([]Interface, error) {
	inst, live, err := d.engine()
	if err != nil {
		return nil, err
	}
	var out []Interface
	devices, addresses := live.View().Devices, inst.Runtime().NetAddresses
	for i := range devices.Interfaces {
		if n := &devices.Interfaces[i]; n.Alias != nil && n.MAC != nil && len(addresses[n.Alias.Name]) > 0 {
			out = append(out, Interface{Host: n.Alias.Name, MAC: n.MAC.Address, Addresses: addresses[n.Alias.Name]})
			continue
		}
		if n := &devices.Interfaces[i]; n.Target != nil && n.Target.Dev != "" && n.MAC != nil {
			nic := Interface{Host: n.Target.Dev, MAC: n.MAC.Address}
			if n.Source != nil && n.Source.Network != nil {
				nic.Network = n.Source.Network.Network
			}
			out = append(out, nic)
		}
	}
	return out, nil
}
