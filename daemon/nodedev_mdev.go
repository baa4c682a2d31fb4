package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// deviceValidate asks for a check of the document (VIR_NODE_DEVICE_CREATE_XML_VALIDATE, VIR_NODE_DEVICE_DEFINE_XML_VALIDATE).
const deviceValidate = 1

// registerMediatedDevices adds what makes and defines devices of the host.
func (d *Daemon) registerMediatedDevices(reg *rpc.Registry) {
	on(reg, rpc.ProcNodeDeviceCreateXML, d.nodeDeviceCreateXML)
	on(reg, rpc.ProcNodeDeviceDefineXML, d.nodeDeviceDefineXML)
	on(reg, rpc.ProcNodeDeviceDestroy, func(ctx context.Context, _ *rpc.Call, a *libvirt.NodeDeviceDestroyArgs) (*none, error) {
		return &none{}, d.devices.Destroy(ctx, a.Name)
	})
	on(reg, rpc.ProcNodeDeviceUndefine, func(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceUndefineArgs) (*none, error) {
		if err := noFlags(a.Flags, "virNodeDeviceUndefine"); err != nil {
			return nil, err
		}
		return &none{}, d.devices.Undefine(a.Name)
	})
	on(reg, rpc.ProcNodeDeviceCreate, func(ctx context.Context, _ *rpc.Call, a *libvirt.NodeDeviceCreateArgs) (*none, error) {
		if err := noFlags(a.Flags, "virNodeDeviceCreate"); err != nil {
			return nil, err
		}
		return &none{}, d.devices.Start(ctx, a.Name)
	})
	on(reg, rpc.ProcNodeDeviceSetAutostart, func(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceSetAutostartArgs) (*none, error) {
		return &none{}, d.devices.SetAutostart(a.Name, a.Autostart != 0)
	})
}

func (d *Daemon) nodeDeviceCreateXML(ctx context.Context, _ *rpc.Call, a *libvirt.NodeDeviceCreateXMLArgs) (*libvirt.NodeDeviceCreateXMLRet, error) {
	if err := onlyFlags(uint32(a.Flags), deviceValidate, "virNodeDeviceCreateXML"); err != nil {
		return nil, err
	}
	name, err := d.devices.Create(ctx, a.XMLDesc, a.Flags&deviceValidate != 0)
	return &libvirt.NodeDeviceCreateXMLRet{Dev: libvirt.NodeDevice{Name: name}}, err
}

func (d *Daemon) nodeDeviceDefineXML(_ context.Context, _ *rpc.Call, a *libvirt.NodeDeviceDefineXMLArgs) (*libvirt.NodeDeviceDefineXMLRet, error) {
	if err := onlyFlags(uint32(a.Flags), deviceValidate, "virNodeDeviceDefineXML"); err != nil {
		return nil, err
	}
	name, err := d.devices.Define(a.XMLDesc, a.Flags&deviceValidate != 0)
	return &libvirt.NodeDeviceDefineXMLRet{Dev: libvirt.NodeDevice{Name: name}}, err
}
