package manager

import (
	"context"
	"strings"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// DeviceForce is the flag of UpdateDevice and DetachDevice that forces a medium out (VIR_DOMAIN_DEVICE_MODIFY_FORCE); no
// device here can be locked in, so it is accepted.
const DeviceForce Affect = 4

const deviceFlagKnown = affectBoth | DeviceForce

// AttachDevice adds a device to the persistent configuration. A running domain cannot get one: OperationUnsupported.
func (d *Domain) AttachDevice(ctx context.Context, xml string, flags Affect) error {
	return d.editDevice(ctx, "Attach", xml, flags, (*domain.Definition).AttachDevice)
}

// DetachDevice removes a device from the persistent configuration. A running domain cannot lose one: OperationUnsupported.
func (d *Domain) DetachDevice(ctx context.Context, xml string, flags Affect) error {
	return d.editDevice(ctx, "Detach", xml, flags, (*domain.Definition).DetachDevice)
}

func (d *Domain) editDevice(ctx context.Context, verb, xml string, flags Affect,
	edit func(*domain.Definition, *domain.Device) (*domain.Definition, error)) error {
	dev, live, err := d.device(xml, flags, "qemuDomain"+verb+"DeviceFlags")
	if err != nil {
		return err
	}
	if live {
		return virterr.New(virterr.OperationUnsupported,
			"live %s of device '%s' is not supported; change the configuration (--config), which the next start uses",
			strings.ToLower(verb), dev.Kind())
	}
	return d.change(ctx, strings.ToLower(verb)+"-device", AffectConfig, func(def *domain.Definition) (*domain.Definition, error) {
		return edit(def, dev)
	}, nil)
}

// device reads the arguments of a call about one device. live says that the running domain is meant, perhaps among others.
func (d *Domain) device(xml string, flags Affect, function string) (dev *domain.Device, live bool, err error) {
	if err := checkFlags(flags, deviceFlagKnown, function); err != nil {
		return nil, false, err
	}
	if dev, err = domain.ParseDevice(xml); err != nil {
		return nil, false, err
	}
	live, _, err = d.targets(flags)
	return dev, live, err
}

// UpdateDevice replaces a disk or an interface of the persistent configuration. In a running domain it plugs an interface's
// cable in or pulls it; every other difference is OperationUnsupported.
func (d *Domain) UpdateDevice(ctx context.Context, xml string, flags Affect) error {
	dev, live, err := d.device(xml, flags, "qemuDomainUpdateDeviceFlags")
	if err != nil {
		return err
	}
	edit := func(def *domain.Definition) (*domain.Definition, error) { return def.UpdateDevice(dev) }
	if !live {
		return d.change(ctx, "update-device", flags&^DeviceForce, edit, nil)
	}
	_, current, err := d.engine()
	if err != nil {
		return err
	}
	nic, err := linkOnly(current, dev)
	if err != nil {
		return err
	}
	plug := func(def *domain.Definition) (*domain.Definition, error) {
		return def.SetLinkState(nic.mac, dev.LinkUp())
	}
	return d.change(ctx, "update-device", flags&^DeviceForce, plug, func(ctx context.Context, r *run) error {
		return r.inst.SetLink(ctx, nic.alias, dev.LinkUp())
	})
}

// nicName is how an interface of a running domain is found in its definition and in its engine.
type nicName struct{ mac, alias string }

// linkOnly finds the interface that dev describes, of which it may change the link only.
func linkOnly(live *domain.Definition, dev *domain.Device) (nicName, error) {
	refuse := virterr.New(virterr.OperationUnsupported,
		"live update of device '%s' is not supported, except the link state of an interface; change the configuration (--config)", dev.Kind())
	if dev.Kind() != "interface" {
		return nicName{}, refuse
	}
	mac, only, err := live.OnlyLinkDiffers(dev)
	if err != nil {
		return nicName{}, err
	}
	if !only {
		return nicName{}, refuse
	}
	devices := live.View().Devices
	for i := range devices.Interfaces {
		if n := &devices.Interfaces[i]; n.MAC != nil && n.Alias != nil && n.MAC.Address == mac {
			return nicName{mac, n.Alias.Name}, nil
		}
	}
	return nicName{}, virterr.New(virterr.InternalError, "interface %s of a running domain has no alias", mac)
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
		for _, n := range live.View().Devices.Disks {
			if n.Target == nil || n.Alias == nil || n.Target.Dev != disk && diskPath(live, n.Alias.Name) != disk {
				continue
			}
			return inst.ResizeDisk(ctx, n.Alias.Name, bytes)
		}
		return virterr.New(virterr.InvalidArg, "disk '%s' was not found in the domain config", disk)
	})
}

// InjectNMI sends a non-maskable interrupt to the guest.
func (d *Domain) InjectNMI(ctx context.Context) error {
	return d.withEngine(ctx, "inject-nmi", func(ctx context.Context, inst driver.Instance) error { return inst.InjectNMI(ctx) })
}

// Interface is an interface of a running domain: the device on the host and the guest's address.
type Interface struct {
	Host, MAC string
	Network   string // the virtual network it is on, or ""
}

// Interfaces returns the interfaces of a running domain that have a device on the host.
func (d *Domain) Interfaces() ([]Interface, error) {
	_, live, err := d.engine()
	if err != nil {
		return nil, err
	}
	var out []Interface
	devices := live.View().Devices
	for i := range devices.Interfaces {
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
