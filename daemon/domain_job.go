package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/rpc"
)

// Types of a long job (virDomainJobType).
const (
	jobNone      = 0
	jobUnbounded = 2 // what libvirt says of saves and dumps: how long they take is not known
	jobCompleted = 3
	jobFailed    = 4
	jobCanceled  = 5
)

func jobType(i manager.JobInfo) int32 {
	switch {
	case i.Operation == 0:
		return jobNone
	case !i.Ended:
		return jobUnbounded
	case i.Canceled:
		return jobCanceled
	case i.Failed:
		return jobFailed
	}
	return jobCompleted
}

func (d *Daemon) domainGetJobInfo(ctx context.Context, _ *rpc.Call, a *libvirt.DomainGetJobInfoArgs) (*libvirt.DomainGetJobInfoRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	info, err := dom.JobInfo(ctx)
	if err != nil || info.Operation == 0 {
		return &libvirt.DomainGetJobInfoRet{}, err
	}
	left := info.Total - min(info.Total, info.Processed)
	return &libvirt.DomainGetJobInfoRet{
		Type: jobType(info), TimeElapsed: uint64(info.Elapsed.Milliseconds()),
		DataTotal: info.Total, DataProcessed: info.Processed, DataRemaining: left,
		MemTotal: info.Total, MemProcessed: info.Processed, MemRemaining: left,
	}, nil
}

// domainGetJobStats is the same with names, and knows the job that ended last. That of a domain that is off, having been
// saved, can be asked for too.
func (d *Daemon) domainGetJobStats(ctx context.Context, _ *rpc.Call, a *libvirt.DomainGetJobStatsArgs) (*libvirt.DomainGetJobStatsRet, error) {
	const known = libvirt.DomainJobStatsCompleted | libvirt.DomainJobStatsKeepCompleted
	if err := onlyFlags(uint32(a.Flags), uint32(known), "qemuDomainGetJobStats"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	var info manager.JobInfo
	if a.Flags&libvirt.DomainJobStatsCompleted != 0 {
		info = dom.LastJob(a.Flags&libvirt.DomainJobStatsKeepCompleted != 0)
	} else if info, err = dom.JobInfo(ctx); err != nil {
		return nil, err
	}
	ret := &libvirt.DomainGetJobStatsRet{Type: jobType(info)}
	if info.Operation == 0 {
		return ret, nil
	}
	left := info.Total - min(info.Total, info.Processed)
	ret.Params = []libvirt.TypedParam{
		rpc.ParamInt("operation", int32(info.Operation)), rpc.ParamUllong("time_elapsed", uint64(info.Elapsed.Milliseconds())),
		rpc.ParamUllong("data_total", info.Total), rpc.ParamUllong("data_processed", info.Processed), rpc.ParamUllong("data_remaining", left),
		rpc.ParamUllong("memory_total", info.Total), rpc.ParamUllong("memory_processed", info.Processed), rpc.ParamUllong("memory_remaining", left),
	}
	return ret, nil
}

func (d *Daemon) domainAbortJob(_ context.Context, _ *rpc.Call, a *libvirt.DomainAbortJobArgs) (*none, error) {
	return nil, d.abortJob(a.Dom)
}

// domainAbortJobFlags has a flag of migrations only (postcopy), which there are none of.
func (d *Daemon) domainAbortJobFlags(_ context.Context, _ *rpc.Call, a *libvirt.DomainAbortJobFlagsArgs) (*none, error) {
	if err := noFlags(a.Flags, "qemuDomainAbortJobFlags"); err != nil {
		return nil, err
	}
	return nil, d.abortJob(a.Dom)
}

func (d *Daemon) abortJob(ref libvirt.Domain) error {
	dom, err := d.domain(ref)
	if err != nil {
		return err
	}
	return dom.AbortJob()
}
