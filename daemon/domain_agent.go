package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/virterr"
)

// registerAgent refuses what only an agent in the guest can do, as libvirt does where the domain has no channel for one: a
// guest is never given that channel, even where its definition keeps it. Clients take this refusal for a domain without agent,
// and go on.
func (d *Daemon) registerAgent(reg *rpc.Registry) {
	noAgent[libvirt.DomainGetTimeArgs, libvirt.DomainGetTimeRet](d, reg, rpc.ProcDomainGetTime,
		func(a *libvirt.DomainGetTimeArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainSetTimeArgs, none](d, reg, rpc.ProcDomainSetTime,
		func(a *libvirt.DomainSetTimeArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainFsfreezeArgs, libvirt.DomainFsfreezeRet](d, reg, rpc.ProcDomainFsfreeze,
		func(a *libvirt.DomainFsfreezeArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainFsthawArgs, libvirt.DomainFsthawRet](d, reg, rpc.ProcDomainFsthaw,
		func(a *libvirt.DomainFsthawArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainFstrimArgs, none](d, reg, rpc.ProcDomainFstrim,
		func(a *libvirt.DomainFstrimArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainGetFsinfoArgs, libvirt.DomainGetFsinfoRet](d, reg, rpc.ProcDomainGetFsinfo,
		func(a *libvirt.DomainGetFsinfoArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainSetUserPasswordArgs, none](d, reg, rpc.ProcDomainSetUserPassword,
		func(a *libvirt.DomainSetUserPasswordArgs) libvirt.Domain { return libvirt.Domain(a.Dom) })
	noAgent[libvirt.DomainGetGuestVcpusArgs, libvirt.DomainGetGuestVcpusRet](d, reg, rpc.ProcDomainGetGuestVcpus,
		func(a *libvirt.DomainGetGuestVcpusArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainSetGuestVcpusArgs, none](d, reg, rpc.ProcDomainSetGuestVcpus,
		func(a *libvirt.DomainSetGuestVcpusArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainGetHostnameArgs, libvirt.DomainGetHostnameRet](d, reg, rpc.ProcDomainGetHostname,
		func(a *libvirt.DomainGetHostnameArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainGetGuestInfoArgs, libvirt.DomainGetGuestInfoRet](d, reg, rpc.ProcDomainGetGuestInfo,
		func(a *libvirt.DomainGetGuestInfoArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainAuthorizedSshKeysGetArgs, libvirt.DomainAuthorizedSshKeysGetRet](d, reg, rpc.ProcDomainAuthorizedSshKeysGet,
		func(a *libvirt.DomainAuthorizedSshKeysGetArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainAuthorizedSshKeysSetArgs, none](d, reg, rpc.ProcDomainAuthorizedSshKeysSet,
		func(a *libvirt.DomainAuthorizedSshKeysSetArgs) libvirt.Domain { return a.Dom })
	noAgent[libvirt.DomainPmSuspendForDurationArgs, none](d, reg, rpc.ProcDomainPmSuspendForDuration,
		func(a *libvirt.DomainPmSuspendForDurationArgs) libvirt.Domain { return a.Dom })
	rpc.Handle(reg, rpc.ProgramQEMU, rpc.QEMUProcDomainAgentCommand,
		func(_ context.Context, _ *rpc.Call, a *libvirt.QEMUDomainAgentCommandArgs) (*libvirt.QEMUDomainAgentCommandRet, error) {
			return nil, d.withoutAgent(a.Dom)
		})
}

// noAgent registers a call that needs an agent.
func noAgent[A, R any](d *Daemon, reg *rpc.Registry, number uint32, dom func(*A) libvirt.Domain) {
	on(reg, number, func(_ context.Context, _ *rpc.Call, a *A) (*R, error) { return nil, d.withoutAgent(dom(a)) })
}

func (d *Daemon) withoutAgent(ref libvirt.Domain) error {
	if _, err := d.runningDomain(ref); err != nil {
		return err
	}
	return virterr.New(virterr.ArgumentUnsupported, "QEMU guest agent is not configured")
}
