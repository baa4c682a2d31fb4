package daemon

import (
	"context"
	"path"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/nodedev"
	"virtd/rpc"
	"virtd/virterr"
)

// registerHostdevs adds what takes devices from the host and gives them back.
func (d *Daemon) registerHostdevs(reg *rpc.Registry) {
	if d.devices == nil || d.cfg.Hostdevs == nil {
		return
	}
	on(reg, rpc.ProcNodeDeviceDettach, func(ctx context.Context, _ *rpc.Call, a *libvirt.NodeDeviceDettachArgs) (*none, error) {
		return &none{}, d.detachDevice(ctx, a.Name, nodedev.DetachOptions{})
	})
	on(reg, rpc.ProcNodeDeviceDetachFlags, func(ctx context.Context, _ *rpc.Call, a *libvirt.NodeDeviceDetachFlagsArgs) (*none, error) {
		if err := noFlags(a.Flags, "virNodeDeviceDetachFlags"); err != nil {
			return nil, err
		}
		return &none{}, d.detachDevice(ctx, a.Name, nodedev.DetachOptions{Driver: optional(a.DriverName)})
	})
	on(reg, rpc.ProcNodeDeviceReAttach, func(ctx context.Context, _ *rpc.Call, a *libvirt.NodeDeviceReAttachArgs) (*none, error) {
		return d.onPCI(a.Name, func(at nodedev.Address) error { return d.cfg.Hostdevs.Reattach(ctx, at) })
	})
	on(reg, rpc.ProcNodeDeviceReset, func(ctx context.Context, _ *rpc.Call, a *libvirt.NodeDeviceResetArgs) (*none, error) {
		return d.onPCI(a.Name, func(at nodedev.Address) error { return d.cfg.Hostdevs.Reset(ctx, at) })
	})
	rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcDeviceDetach, d.privDeviceDetach)
	d.registerSRIOV(reg)
}

// onPCI does something with the PCI function that a node device is.
func (d *Daemon) onPCI(name string, do func(nodedev.Address) error) (*none, error) {
	a, err := d.pciAddress(name)
	if err != nil {
		return nil, err
	}
	return &none{}, do(a)
}

func (d *Daemon) pciAddress(name string) (nodedev.Address, error) {
	dev, err := d.devices.Lookup(name)
	if err != nil {
		return nodedev.Address{}, err
	}
	if dev.Kind != nodedev.PCI {
		return nodedev.Address{}, virterr.NewFrom(virterr.FromNodeDev, virterr.InvalidArg, "device %s is not a PCI device", name)
	}
	return nodedev.ParseAddress(path.Base(dev.Path))
}

func (d *Daemon) detachDevice(ctx context.Context, name string, o nodedev.DetachOptions) error {
	a, err := d.pciAddress(name)
	if err != nil {
		return err
	}
	return d.cfg.Hostdevs.Detach(ctx, a, o)
}

// privDeviceDetach is virNodeDeviceDetachFlags with what libvirt has no flags for.
func (d *Daemon) privDeviceDetach(ctx context.Context, _ *rpc.Call, a *rpc.PrivDeviceDetachArgs) (*none, error) {
	if err := onlyFlags(a.Flags, rpc.PrivDetachGroup|rpc.PrivDetachForce, "virtdDeviceDetach"); err != nil {
		return nil, err
	}
	return &none{}, d.detachDevice(ctx, a.Name, nodedev.DetachOptions{
		Driver: a.Driver, Group: a.Flags&rpc.PrivDetachGroup != 0, Force: a.Flags&rpc.PrivDetachForce != 0, Strict: true,
	})
}
