package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/rpc"
)

func (d *Daemon) registerMemory(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainGetMaxMemory, d.domainGetMaxMemory)
	on(reg, rpc.ProcDomainSetMaxMemory, d.domainSetMaxMemory)
	on(reg, rpc.ProcDomainSetMemory, d.domainSetMemory)
	on(reg, rpc.ProcDomainSetMemoryFlags, d.domainSetMemoryFlags)
	on(reg, rpc.ProcDomainMemoryStats, d.domainMemoryStats)
	on(reg, rpc.ProcDomainSetMemoryStatsPeriod, d.domainSetMemoryStatsPeriod)
}

func (d *Daemon) domainGetMaxMemory(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetMaxMemoryArgs) (*libvirt.DomainGetMaxMemoryRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainGetMaxMemoryRet{Memory: dom.Info().Memory}, nil
}

func (d *Daemon) domainSetMaxMemory(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetMaxMemoryArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetMemory(ctx, a.Memory, manager.MemMaximum)
}

// domainSetMemory is about the running guest: the call is older than the flags.
func (d *Daemon) domainSetMemory(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetMemoryArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetMemory(ctx, a.Memory, manager.AffectLive)
}

func (d *Daemon) domainSetMemoryFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetMemoryFlagsArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetMemory(ctx, a.Memory, manager.Affect(a.Flags))
}

func (d *Daemon) domainMemoryStats(ctx context.Context, _ *rpc.Call, a *libvirt.DomainMemoryStatsArgs) (*libvirt.DomainMemoryStatsRet, error) {
	if err := noFlags(a.Flags, "virDomainMemoryStats"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	stats, err := dom.MemoryStats(ctx)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.DomainMemoryStatsRet{}
	for _, s := range stats {
		if uint32(len(ret.Stats)) < a.MaxStats {
			ret.Stats = append(ret.Stats, libvirt.DomainMemoryStat{Tag: s.Tag, Val: s.Value})
		}
	}
	return ret, nil
}

func (d *Daemon) domainSetMemoryStatsPeriod(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetMemoryStatsPeriodArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetMemoryStatsPeriod(ctx, int(a.Period), manager.Affect(a.Flags))
}
