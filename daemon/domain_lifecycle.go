package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/rpc"
)

func (d *Daemon) registerLifecycle(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainCreate, d.domainCreate)
	on(reg, rpc.ProcDomainCreateWithFlags, d.domainCreateWithFlags)
	on(reg, rpc.ProcDomainCreateXML, d.domainCreateXML)
	on(reg, rpc.ProcDomainShutdown, d.domainShutdown)
	on(reg, rpc.ProcDomainShutdownFlags, d.domainShutdownFlags)
	on(reg, rpc.ProcDomainReboot, d.domainReboot)
	on(reg, rpc.ProcDomainReset, d.domainReset)
	on(reg, rpc.ProcDomainSuspend, d.domainSuspend)
	on(reg, rpc.ProcDomainResume, d.domainResume)
	on(reg, rpc.ProcDomainDestroy, d.domainDestroy)
	on(reg, rpc.ProcDomainDestroyFlags, d.domainDestroyFlags)
}

func (d *Daemon) domainCreate(ctx context.Context, c *rpc.Call, a *libvirt.DomainCreateArgs) (*none, error) {
	_, err := d.start(ctx, c, a.Dom, 0)
	return nil, err
}

func (d *Daemon) domainCreateWithFlags(ctx context.Context, c *rpc.Call, a *libvirt.DomainCreateWithFlagsArgs) (*libvirt.DomainCreateWithFlagsRet, error) {
	dom, err := d.start(ctx, c, a.Dom, manager.StartFlags(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainCreateWithFlagsRet{Dom: wire(dom.Ref())}, nil
}

func (d *Daemon) start(ctx context.Context, c *rpc.Call, ref libvirt.Domain, flags manager.StartFlags) (*manager.Domain, error) {
	dom, err := d.domain(ref)
	if err != nil {
		return nil, err
	}
	if err := dom.Start(ctx, flags); err != nil {
		return nil, err
	}
	if flags&manager.StartAutodestroy != 0 {
		d.autodestroy(c.Conn, dom)
	}
	return dom, nil
}

func (d *Daemon) domainCreateXML(ctx context.Context, c *rpc.Call, a *libvirt.DomainCreateXMLArgs) (*libvirt.DomainCreateXMLRet, error) {
	flags := manager.StartFlags(a.Flags)
	dom, err := d.mgr.CreateXML(ctx, a.XMLDesc, flags)
	if err != nil {
		return nil, err
	}
	if flags&manager.StartAutodestroy != 0 {
		d.autodestroy(c.Conn, dom)
	}
	return &libvirt.DomainCreateXMLRet{Dom: wire(dom.Ref())}, nil
}

func (d *Daemon) domainShutdown(ctx context.Context, _ *rpc.Call, a *libvirt.DomainShutdownArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Shutdown(ctx, 0)
}

func (d *Daemon) domainShutdownFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainShutdownFlagsArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Shutdown(ctx, manager.ShutdownFlags(a.Flags))
}

func (d *Daemon) domainReboot(ctx context.Context, _ *rpc.Call, a *libvirt.DomainRebootArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Reboot(ctx, manager.ShutdownFlags(a.Flags))
}

func (d *Daemon) domainReset(ctx context.Context, _ *rpc.Call, a *libvirt.DomainResetArgs) (*none, error) {
	if err := noFlags(a.Flags, "virDomainReset"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Reset(ctx)
}

func (d *Daemon) domainSuspend(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSuspendArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Suspend(ctx)
}

func (d *Daemon) domainResume(ctx context.Context, _ *rpc.Call, a *libvirt.DomainResumeArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Resume(ctx)
}

func (d *Daemon) domainDestroy(ctx context.Context, _ *rpc.Call, a *libvirt.DomainDestroyArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Destroy(ctx, 0)
}

func (d *Daemon) domainDestroyFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainDestroyFlagsArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.Destroy(ctx, manager.DestroyFlags(a.Flags))
}
