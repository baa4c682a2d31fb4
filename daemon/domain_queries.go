package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/virterr"
)

// registerQueries answers what clients ask of any domain and what is short to tell here.
func (d *Daemon) registerQueries(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainGetBlockJobInfo, d.domainGetBlockJobInfo)
	on(reg, rpc.ProcDomainGetDiskErrors, d.domainGetDiskErrors)
	on(reg, rpc.ProcDomainGetCPUStats, d.domainGetCPUStats)
	on(reg, rpc.ProcDomainGetLaunchSecurityInfo, d.domainGetLaunchSecurityInfo)
}

// domainGetBlockJobInfo finds no job on any disk.
func (d *Daemon) domainGetBlockJobInfo(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetBlockJobInfoArgs) (*libvirt.DomainGetBlockJobInfoRet, error) {
	const bytes = 1
	if err := onlyFlags(a.Flags, bytes, "virDomainGetBlockJobInfo"); err != nil {
		return nil, err
	}
	dom, err := d.runningDomain(a.Dom)
	if err != nil {
		return nil, err
	}
	def, _, err := dom.Affected(0)
	if err != nil {
		return nil, err
	}
	if !hasDisk(def, a.Path) {
		return nil, virterr.New(virterr.InvalidArg, "invalid path '%s'", a.Path)
	}
	return &libvirt.DomainGetBlockJobInfoRet{}, nil
}

// domainGetDiskErrors lists disks that a guest was stopped for. The guest is told of errors instead, so there are none.
func (d *Daemon) domainGetDiskErrors(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetDiskErrorsArgs) (*rpc.DomainGetDiskErrorsRet, error) {
	if err := noFlags(a.Flags, "virDomainGetDiskErrors"); err != nil {
		return nil, err
	}
	_, err := d.runningDomain(a.Dom)
	return &rpc.DomainGetDiskErrorsRet{}, err
}

// domainGetCPUStats tells the processor time of a running domain in all. How it divides among the host's processors the kernel
// does not count (cgroup v2).
func (d *Daemon) domainGetCPUStats(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetCPUStatsArgs) (*libvirt.DomainGetCPUStatsRet, error) {
	if err := onlyFlags(uint32(a.Flags), stringOkay, "virDomainGetCPUStats"); err != nil {
		return nil, err
	}
	dom, err := d.runningDomain(a.Dom)
	if err != nil {
		return nil, err
	}
	if a.StartCPU != -1 {
		return nil, virterr.New(virterr.OperationUnsupported, "processor time by host processor is not counted; ask for the total (virsh cpu-stats --total)")
	}
	t, err := dom.CPUTime()
	if err != nil {
		return nil, err
	}
	ret := &libvirt.DomainGetCPUStatsRet{}
	ret.Params, ret.Nparams = twoPass([]libvirt.TypedParam{
		ullongParam("cpu_time", uint64(t.Total)), ullongParam("user_time", uint64(t.User)), ullongParam("system_time", uint64(t.System)),
	}, int32(min(a.Nparams, 1<<16)), 0)
	return ret, nil
}

// domainGetLaunchSecurityInfo is empty: memory is not encrypted.
func (d *Daemon) domainGetLaunchSecurityInfo(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetLaunchSecurityInfoArgs) (*libvirt.DomainGetLaunchSecurityInfoRet, error) {
	if err := onlyFlags(a.Flags, stringOkay, "virDomainGetLaunchSecurityInfo"); err != nil {
		return nil, err
	}
	_, err := d.domain(a.Dom)
	return &libvirt.DomainGetLaunchSecurityInfoRet{}, err
}
