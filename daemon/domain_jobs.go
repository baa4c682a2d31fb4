package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/virterr"
)

// registerJobs answers what long work a domain has under way: none.
func (d *Daemon) registerJobs(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainGetJobInfo, d.domainGetJobInfo)
	on(reg, rpc.ProcDomainGetJobStats, d.domainGetJobStats)
	on(reg, rpc.ProcDomainAbortJob, d.domainAbortJob)
	on(reg, rpc.ProcDomainAbortJobFlags, d.domainAbortJobFlags)
	on(reg, rpc.ProcDomainGetBlockJobInfo, d.domainGetBlockJobInfo)
	on(reg, rpc.ProcDomainGetDiskErrors, d.domainGetDiskErrors)
	on(reg, rpc.ProcDomainGetCPUStats, d.domainGetCPUStats)
	on(reg, rpc.ProcDomainGetLaunchSecurityInfo, d.domainGetLaunchSecurityInfo)
}

// domainGetJobInfo says that no long job (a save, a migration) runs: there are none yet.
func (d *Daemon) domainGetJobInfo(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetJobInfoArgs) (*libvirt.DomainGetJobInfoRet, error) {
	if _, err := d.runningDomain(a.Dom); err != nil {
		return nil, err
	}
	return &libvirt.DomainGetJobInfoRet{}, nil
}

// domainGetJobStats has no values besides the type, which is none. Of a job that ended one may ask later.
func (d *Daemon) domainGetJobStats(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetJobStatsArgs) (*libvirt.DomainGetJobStatsRet, error) {
	const completed, keepCompleted = uint32(libvirt.DomainJobStatsCompleted), uint32(libvirt.DomainJobStatsKeepCompleted)
	if err := onlyFlags(uint32(a.Flags), completed|keepCompleted, "virDomainGetJobStats"); err != nil {
		return nil, err
	}
	find := d.runningDomain
	if uint32(a.Flags)&completed != 0 {
		find = d.domain
	}
	if _, err := find(a.Dom); err != nil {
		return nil, err
	}
	return &libvirt.DomainGetJobStatsRet{}, nil
}

func (d *Daemon) domainAbortJob(_ context.Context, _ *rpc.Call, a *libvirt.DomainAbortJobArgs) (*none, error) {
	return nil, d.abortJob(a.Dom)
}

func (d *Daemon) domainAbortJobFlags(_ context.Context, _ *rpc.Call, a *libvirt.DomainAbortJobFlagsArgs) (*none, error) {
	const postcopy = 1
	if err := onlyFlags(a.Flags, postcopy, "virDomainAbortJobFlags"); err != nil {
		return nil, err
	}
	return nil, d.abortJob(a.Dom)
}

func (d *Daemon) abortJob(ref libvirt.Domain) error {
	if _, err := d.runningDomain(ref); err != nil {
		return err
	}
	return virterr.New(virterr.OperationInvalid, "no job is active on the domain")
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
