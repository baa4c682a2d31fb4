package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/nodedev"
	"virtd/rpc"
)

// registerNodeDeviceEvents is for daemons without a manager of devices too: clients take the refusal to register for a
// broken connection.
func (d *Daemon) registerNodeDeviceEvents(reg *rpc.Registry) {
	on(reg, rpc.ProcConnectNodeDeviceEventRegisterAny, d.nodeDeviceEventRegister)
	on(reg, rpc.ProcConnectNodeDeviceEventDeregisterAny, func(_ context.Context, c *rpc.Call, a *libvirt.ConnectNodeDeviceEventDeregisterAnyArgs) (*none, error) {
		return nil, d.events.remove(c.Conn, a.CallbackID)
	})
}

func (d *Daemon) nodeDeviceEventRegister(_ context.Context, c *rpc.Call, a *libvirt.ConnectNodeDeviceEventRegisterAnyArgs) (*libvirt.ConnectNodeDeviceEventRegisterAnyRet, error) {
	sub := &subscription{conn: c.Conn}
	switch libvirt.NodeDeviceEventID(a.EventID) {
	case libvirt.NodeDeviceEventIDLifecycle:
		sub.event = eventDeviceLifecycle
	case libvirt.NodeDeviceEventIDUpdate:
		sub.event = eventDeviceUpdate
	default:
		return nil, unsupportedEvent(a.EventID)
	}
	if len(a.Dev) > 0 {
		sub.device = a.Dev[0].Name
	}
	id, err := d.events.add(sub)
	return &libvirt.ConnectNodeDeviceEventRegisterAnyRet{CallbackID: id}, err
}

// lifecycleOf are libvirt's numbers of what happens to devices.
var lifecycleOf = map[nodedev.EventKind]libvirt.NodeDeviceEventLifecycleType{
	nodedev.Created: libvirt.NodeDeviceEventCreated, nodedev.Deleted: libvirt.NodeDeviceEventDeleted,
	nodedev.Defined: libvirt.NodeDeviceEventDefined, nodedev.Undefined: libvirt.NodeDeviceEventUndefined,
}

// deliverDevice sends an event of a device to the clients that want it. It never blocks.
func (d *Daemon) deliverDevice(e nodedev.Event) {
	dev := libvirt.NodeDevice{Name: e.Device}
	if e.Kind == nodedev.Changed {
		for _, sub := range d.events.wantingDevice(eventDeviceUpdate, e.Device) {
			d.sendTo(sub, rpc.ProgramRemote, rpc.ProcNodeDeviceEventUpdate, &libvirt.NodeDeviceEventUpdateMsg{CallbackID: sub.id, Dev: dev})
		}
		return
	}
	for _, sub := range d.events.wantingDevice(eventDeviceLifecycle, e.Device) {
		d.sendTo(sub, rpc.ProgramRemote, rpc.ProcNodeDeviceEventLifecycle,
			&libvirt.NodeDeviceEventLifecycleMsg{CallbackID: sub.id, Dev: dev, Event: int32(lifecycleOf[e.Kind])})
	}
}
