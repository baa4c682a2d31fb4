package daemon

import (
	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/rpc"
	"virtd/storage"
)

// The numbers of domain events that have no constant in package manager.
const eventIOErrorReason = 6

// deliver sends one of the manager's events to the clients that want it. It never blocks.
func (d *Daemon) deliver(e manager.Event) {
	dom := wire(e.Domain)
	switch e.Kind {
	case manager.EventLifecycle:
		d.send(e, int32(e.Kind), rpc.ProcDomainEventCallbackLifecycle, func(id int32) any {
			return &libvirt.DomainEventCallbackLifecycleMsg{CallbackID: id,
				Msg: libvirt.DomainEventLifecycleMsg{Dom: dom, Event: int32(e.Type), Detail: int32(e.Detail)}}
		})
	case manager.EventReboot:
		d.send(e, int32(e.Kind), rpc.ProcDomainEventCallbackReboot, func(id int32) any {
			return &libvirt.DomainEventCallbackRebootMsg{CallbackID: id, Msg: libvirt.DomainEventRebootMsg{Dom: dom}}
		})
	case manager.EventBalloon:
		d.send(e, int32(e.Kind), rpc.ProcDomainEventCallbackBalloonChange, func(id int32) any {
			return &libvirt.DomainEventCallbackBalloonChangeMsg{CallbackID: id, Msg: libvirt.DomainEventBalloonChangeMsg{Dom: dom, Actual: e.Balloon}}
		})
	case manager.EventIOError:
		d.deliverIOError(e, dom)
	case manager.EventMetadata:
		d.send(e, int32(e.Kind), rpc.ProcDomainEventCallbackMetadataChange, func(id int32) any {
			msg := &libvirt.DomainEventCallbackMetadataChangeMsg{CallbackID: id, Dom: dom, Type: int32(e.MetadataType)}
			if e.MetadataURI != "" {
				msg.Nsuri = libvirt.OptString{e.MetadataURI}
			}
			return msg
		})
	case manager.EventTunable:
		d.send(e, int32(e.Kind), rpc.ProcDomainEventCallbackTunable, func(id int32) any {
			return &libvirt.DomainEventCallbackTunableMsg{CallbackID: id, Dom: dom, Params: typedParams(e.Tunables)}
		})
	case manager.EventDeviceAdded, manager.EventDeviceRemoved, manager.EventDeviceRemovalFailed:
		d.deliverDeviceChange(e, dom)
	case manager.EventMonitor:
		d.deliverMonitor(e, dom)
	}
}

// deliverDeviceChange sends that a device came, went, or did not go.
func (d *Daemon) deliverDeviceChange(e manager.Event, dom libvirt.Domain) {
	switch e.Kind {
	case manager.EventDeviceAdded:
		d.send(e, int32(e.Kind), rpc.ProcDomainEventCallbackDeviceAdded, func(id int32) any {
			return &libvirt.DomainEventCallbackDeviceAddedMsg{CallbackID: id, Dom: dom, DevAlias: e.Alias}
		})
	case manager.EventDeviceRemoved:
		d.send(e, int32(e.Kind), rpc.ProcDomainEventCallbackDeviceRemoved, func(id int32) any {
			return &libvirt.DomainEventCallbackDeviceRemovedMsg{CallbackID: id, Msg: libvirt.DomainEventDeviceRemovedMsg{Dom: dom, DevAlias: e.Alias}}
		})
	default:
		d.send(e, int32(e.Kind), rpc.ProcDomainEventCallbackDeviceRemovalFailed, func(id int32) any {
			return &libvirt.DomainEventCallbackDeviceRemovalFailedMsg{CallbackID: id, Dom: dom, DevAlias: e.Alias}
		})
	}
}

// deliverIOError sends both kinds of message about a failed request: the older one lacks the reason.
func (d *Daemon) deliverIOError(e manager.Event, dom libvirt.Domain) {
	d.send(e, int32(manager.EventIOError), rpc.ProcDomainEventCallbackIOError, func(id int32) any {
		return &libvirt.DomainEventCallbackIOErrorMsg{CallbackID: id,
			Msg: libvirt.DomainEventIOErrorMsg{Dom: dom, SrcPath: e.Path, DevAlias: e.Alias, Action: int32(e.Action)}}
	})
	d.send(e, eventIOErrorReason, rpc.ProcDomainEventCallbackIOErrorReason, func(id int32) any {
		return &libvirt.DomainEventCallbackIOErrorReasonMsg{CallbackID: id,
			Msg: libvirt.DomainEventIOErrorReasonMsg{Dom: dom, SrcPath: e.Path, DevAlias: e.Alias, Action: int32(e.Action), Reason: e.Reason}}
	})
}

// deliverMonitor passes an event of the engine's monitor on, for the QEMU program.
func (d *Daemon) deliverMonitor(e manager.Event, dom libvirt.Domain) {
	for _, sub := range d.events.wanting(eventMonitor, e.Domain.UUID) {
		if sub.name != nil && !sub.name.MatchString(e.Name) {
			continue
		}
		msg := &libvirt.QEMUDomainMonitorEventMsg{
			CallbackID: sub.id, Dom: dom, Event: e.Name, Seconds: e.Time.Unix(), Micros: uint32(e.Time.Nanosecond() / 1000),
		}
		if len(e.Data) > 0 {
			msg.Details = libvirt.OptString{string(e.Data)}
		}
		d.sendTo(sub, rpc.ProgramQEMU, rpc.QEMUProcDomainMonitorEvent, msg)
	}
}

func (d *Daemon) send(e manager.Event, event int32, procedure uint32, message func(callback int32) any) {
	for _, sub := range d.events.wanting(event, e.Domain.UUID) {
		d.sendTo(sub, rpc.ProgramRemote, procedure, message(sub.id))
	}
}

// deliverPool sends an event of a storage pool to the clients that want it. It never blocks.
func (d *Daemon) deliverPool(e storage.Event) {
	pool := libvirt.StoragePool{Name: e.Name, UUID: libvirt.UUID(e.UUID)}
	switch e.Kind {
	case storage.EventLifecycle:
		for _, sub := range d.events.wanting(eventPoolLifecycle, e.UUID) {
			d.sendTo(sub, rpc.ProgramRemote, rpc.ProcStoragePoolEventLifecycle,
				&libvirt.StoragePoolEventLifecycleMsg{CallbackID: sub.id, Pool: pool, Event: int32(e.Type)})
		}
	case storage.EventRefresh:
		for _, sub := range d.events.wanting(eventPoolRefresh, e.UUID) {
			d.sendTo(sub, rpc.ProgramRemote, rpc.ProcStoragePoolEventRefresh,
				&libvirt.StoragePoolEventRefreshMsg{CallbackID: sub.id, Pool: pool})
		}
	}
}

func (d *Daemon) sendTo(sub *subscription, program, procedure uint32, msg any) {
	if err := sub.conn.SendEvent(program, procedure, msg); err != nil {
		d.log.Debug("event not sent", "peer", sub.conn.Peer(), "error", err)
	}
}
