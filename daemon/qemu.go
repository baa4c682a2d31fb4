package daemon

import (
	"context"
	"regexp"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/virterr"
)

// The flags of the QEMU program's calls.
const (
	monitorHMP         = 1 // virDomainQemuMonitorCommandFlags
	monitorEventRegex  = 1 // virConnectDomainQemuMonitorEventRegisterFlags
	monitorEventNoCase = 2
)

func (d *Daemon) registerQEMU(reg *rpc.Registry) {
	rpc.Handle(reg, rpc.ProgramQEMU, rpc.QEMUProcDomainMonitorCommand, d.monitorCommand)
	rpc.Handle(reg, rpc.ProgramQEMU, rpc.QEMUProcConnectDomainMonitorEventRegister, d.monitorEventRegister)
	rpc.Handle(reg, rpc.ProgramQEMU, rpc.QEMUProcConnectDomainMonitorEventDeregister, d.monitorEventDeregister)
}

// monitorCommand passes a command to the engine's monitor: QMP, or a human line with the flag.
func (d *Daemon) monitorCommand(ctx context.Context, _ *rpc.Call, a *libvirt.QEMUDomainMonitorCommandArgs) (*libvirt.QEMUDomainMonitorCommandRet, error) {
	if err := onlyFlags(a.Flags, monitorHMP, "virDomainQemuMonitorCommand"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	result, err := dom.Monitor(ctx, a.Cmd, a.Flags&monitorHMP != 0)
	if err != nil {
		return nil, err
	}
	return &libvirt.QEMUDomainMonitorCommandRet{Result: result}, nil
}

func (d *Daemon) monitorEventRegister(_ context.Context, c *rpc.Call, a *libvirt.QEMUConnectDomainMonitorEventRegisterArgs) (*libvirt.QEMUConnectDomainMonitorEventRegisterRet, error) {
	if err := onlyFlags(a.Flags, monitorEventRegex|monitorEventNoCase, "virConnectDomainQemuMonitorEventRegister"); err != nil {
		return nil, err
	}
	sub := &subscription{conn: c.Conn, event: eventMonitor, object: filter(a.Dom)}
	if len(a.Event) > 0 {
		expr := a.Event[0]
		if a.Flags&monitorEventRegex == 0 {
			expr = "^" + regexp.QuoteMeta(expr) + "$"
		}
		if a.Flags&monitorEventNoCase != 0 {
			expr = "(?i)" + expr
		}
		re, err := regexp.Compile(expr)
		if err != nil {
			return nil, virterr.New(virterr.InvalidArg, "event name is not a regular expression: %w", err)
		}
		sub.name = re
	}
	id, err := d.events.add(sub)
	return &libvirt.QEMUConnectDomainMonitorEventRegisterRet{CallbackID: id}, err
}

func (d *Daemon) monitorEventDeregister(_ context.Context, c *rpc.Call, a *libvirt.QEMUConnectDomainMonitorEventDeregisterArgs) (*none, error) {
	return nil, d.events.remove(c.Conn, a.CallbackID)
}
