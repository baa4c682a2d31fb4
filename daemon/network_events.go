package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/network"
	"virtd/rpc"
)

// registerNetworkEvents is for daemons without networks too: clients take the refusal to register for a broken connection.
func (d *Daemon) registerNetworkEvents(reg *rpc.Registry) {
	on(reg, rpc.ProcConnectNetworkEventRegisterAny, d.networkEventRegister)
	on(reg, rpc.ProcConnectNetworkEventDeregisterAny, func(_ context.Context, c *rpc.Call, a *libvirt.ConnectNetworkEventDeregisterAnyArgs) (*none, error) {
		return nil, d.events.remove(c.Conn, a.CallbackID)
	})
}

// networkEventRegister takes registrations for changes of metadata too, which never happen: there is no call for them.
func (d *Daemon) networkEventRegister(_ context.Context, c *rpc.Call, a *libvirt.ConnectNetworkEventRegisterAnyArgs) (*libvirt.ConnectNetworkEventRegisterAnyRet, error) {
	const metadata = 1 // VIR_NETWORK_EVENT_ID_METADATA_CHANGE
	sub := &subscription{conn: c.Conn, event: eventNetworkLifecycle}
	switch libvirt.NetworkEventID(a.EventID) {
	case libvirt.NetworkEventIDLifecycle:
	case metadata:
		sub.event = eventSilent
	default:
		return nil, unsupportedEvent(a.EventID)
	}
	if len(a.Net) > 0 {
		id := uuid.UUID(a.Net[0].UUID)
		sub.object = &id
	}
	id, err := d.events.add(sub)
	return &libvirt.ConnectNetworkEventRegisterAnyRet{CallbackID: id}, err
}

// deliverNetwork sends an event of a network to the clients that want it. It never blocks.
func (d *Daemon) deliverNetwork(e network.Event) {
	ref := libvirt.Network{Name: e.Name, UUID: libvirt.UUID(e.UUID)}
	for _, sub := range d.events.wanting(eventNetworkLifecycle, e.UUID) {
		d.sendTo(sub, rpc.ProgramRemote, rpc.ProcNetworkEventLifecycle,
			&libvirt.NetworkEventLifecycleMsg{CallbackID: sub.id, Net: ref, Event: int32(e.Type)})
	}
}
