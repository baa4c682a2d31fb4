package daemon

import (
	"context"
	"io"
	"os"
	"sync"
	"syscall"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/hypervisor/block/qcow2"
	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) registerStats(reg *rpc.Registry) {
	on(reg, rpc.ProcConnectGetAllDomainStats, d.connectGetAllDomainStats)
	on(reg, rpc.ProcDomainBlockStats, d.domainBlockStats)
	on(reg, rpc.ProcDomainBlockStatsFlags, d.domainBlockStatsFlags)
	on(reg, rpc.ProcDomainInterfaceStats, d.domainInterfaceStats)
	on(reg, rpc.ProcDomainGetBlockInfo, d.domainGetBlockInfo)
	on(reg, rpc.ProcDomainStartDirtyRateCalc, d.domainStartDirtyRateCalc)
}

// Flags of GET_ALL_DOMAIN_STATS (virConnectGetAllDomainStatsFlags). The low ones are those of lists.
const (
	statsListFlags = 0xff
	statsNoWait    = 1 << 29 // always so: statistics never wait
	statsBacking   = 1 << 30 // also the images below those of disks
	statsEnforce   = 1 << 31
)

// statsInParallel is how many domains are asked at once: one that does not answer must not hold up the others.
const statsInParallel = 16

func (d *Daemon) connectGetAllDomainStats(ctx context.Context, _ *rpc.Call, a *libvirt.ConnectGetAllDomainStatsArgs) (*libvirt.ConnectGetAllDomainStatsRet, error) {
	if err := onlyFlags(a.Flags, statsListFlags|statsNoWait|statsBacking|statsEnforce, "virConnectGetAllDomainStats"); err != nil {
		return nil, err
	}
	groups := manager.StatsGroup(a.Stats)
	if extra := groups &^ manager.StatsSupported; extra != 0 && a.Flags&statsEnforce != 0 {
		return nil, virterr.New(virterr.ArgumentUnsupported, "Stats types bits 0x%x are not supported by this daemon", uint32(extra))
	}
	if groups != 0 {
		if groups &= manager.StatsSupported; groups == 0 {
			groups = manager.StatsState // nothing that we have: name and state are still an answer
		}
	}
	doms := d.statsDomains(a)
	records := make([]*libvirt.DomainStatsRecord, len(doms))
	var wg sync.WaitGroup
	slots := make(chan struct{}, statsInParallel)
	for i, dom := range doms {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if params, err := dom.Stats(ctx, groups, a.Flags&statsBacking != 0); err == nil { // gone meanwhile otherwise
				records[i] = &libvirt.DomainStatsRecord{Dom: wire(dom.Ref()), Params: typedParams(params)}
			}
		})
	}
	wg.Wait()
	ret := &libvirt.ConnectGetAllDomainStatsRet{}
	for _, r := range records {
		if r != nil {
			ret.RetStats = append(ret.RetStats, *r)
		}
	}
	return ret, nil
}

// statsDomains are the domains that a client named, as far as they exist, or all that match its flags.
func (d *Daemon) statsDomains(a *libvirt.ConnectGetAllDomainStatsArgs) []*manager.Domain {
	if len(a.Doms) == 0 {
		return d.mgr.List(manager.ListFlags(a.Flags & statsListFlags))
	}
	var doms []*manager.Domain
	for _, ref := range a.Doms {
		if dom, err := d.domain(ref); err == nil {
			doms = append(doms, dom)
		}
	}
	return doms
}

func typedParams(params []manager.Param) []libvirt.TypedParam {
	out := make([]libvirt.TypedParam, 0, len(params))
	for _, p := range params {
		switch v := p.Value.(type) {
		case int32:
			out = append(out, rpc.ParamInt(p.Name, v))
		case int:
			out = append(out, rpc.ParamInt(p.Name, int32(v)))
		case uint32:
			out = append(out, rpc.ParamUint(p.Name, v))
		case int64:
			out = append(out, rpc.ParamLlong(p.Name, v))
		case uint64:
			out = append(out, rpc.ParamUllong(p.Name, v))
		case float64:
			out = append(out, libvirt.TypedParam{Field: p.Name, Value: *libvirt.NewTypedParamValueDouble(v)})
		case bool:
			out = append(out, rpc.ParamBoolean(p.Name, v))
		case string:
			out = append(out, rpc.ParamString(p.Name, v))
		}
	}
	return out
}

// domainBlockStats answers the older call. For an engine that does not answer in time it tells the counters of its last
// answer: monitoring programs collect those of all domains by this call, and give up all of them at the first error.
func (d *Daemon) domainBlockStats(ctx context.Context, _ *rpc.Call, a *libvirt.DomainBlockStatsArgs) (*libvirt.DomainBlockStatsRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	s, err := dom.BlockStats(ctx, a.Path)
	if last, ok := dom.LastBlockStats(a.Path); ok && virterr.Is(err, virterr.OperationTimeout) {
		s, err = last, nil
	}
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainBlockStatsRet{
		RdReq: int64(s.ReadOps), RdBytes: int64(s.ReadBytes), WrReq: int64(s.WriteOps), WrBytes: int64(s.WriteBytes), Errs: int64(s.Errors),
	}, nil
}

// domainBlockStatsFlags answers in two passes: without room for values it tells how many there are.
func (d *Daemon) domainBlockStatsFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainBlockStatsFlagsArgs) (*libvirt.DomainBlockStatsFlagsRet, error) {
	if err := onlyFlags(a.Flags, uint32(libvirt.TypedParamStringOkay), "virDomainBlockStatsFlags"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	s, err := dom.BlockStats(ctx, a.Path)
	if err != nil {
		return nil, err
	}
	params := []libvirt.TypedParam{
		rpc.ParamLlong("wr_bytes", int64(s.WriteBytes)),
		rpc.ParamLlong("wr_operations", int64(s.WriteOps)),
		rpc.ParamLlong("rd_bytes", int64(s.ReadBytes)),
		rpc.ParamLlong("rd_operations", int64(s.ReadOps)),
		rpc.ParamLlong("flush_operations", int64(s.FlushOps)),
		rpc.ParamLlong("wr_total_times", int64(s.WriteTime)),
		rpc.ParamLlong("rd_total_times", int64(s.ReadTime)),
		rpc.ParamLlong("flush_total_times", int64(s.FlushTime)),
	}
	ret := &libvirt.DomainBlockStatsFlagsRet{Nparams: int32(len(params))}
	if a.Nparams > 0 {
		ret.Params = params[:min(len(params), int(a.Nparams))]
		ret.Nparams = int32(len(ret.Params))
	}
	return ret, nil
}

func (d *Daemon) domainInterfaceStats(ctx context.Context, _ *rpc.Call, a *libvirt.DomainInterfaceStatsArgs) (*libvirt.DomainInterfaceStatsRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	s, err := dom.InterfaceStats(ctx, a.Device)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainInterfaceStatsRet{
		RxBytes: int64(s.RxBytes), RxPackets: int64(s.RxPackets), RxErrs: int64(s.RxErrors), RxDrop: int64(s.RxDropped),
		TxBytes: int64(s.TxBytes), TxPackets: int64(s.TxPackets), TxErrs: int64(s.TxErrors), TxDrop: int64(s.TxDropped),
	}, nil
}

func (d *Daemon) domainGetBlockInfo(ctx context.Context, _ *rpc.Call, a *libvirt.DomainGetBlockInfoArgs) (*libvirt.DomainGetBlockInfoRet, error) {
	if err := noFlags(a.Flags, "virDomainGetBlockInfo"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	if a.Path == "" {
		return nil, virterr.New(virterr.InvalidArg, "NULL or empty path")
	}
	if dom.Active() {
		s, err := dom.BlockStats(ctx, a.Path)
		if err != nil {
			return nil, err
		}
		return &libvirt.DomainGetBlockInfoRet{Allocation: s.Allocation, Capacity: s.Capacity, Physical: s.Physical}, nil
	}
	disk, err := dom.StoredDisk(a.Path)
	if err != nil {
		return nil, err
	}
	return imageInfo(disk.Path, disk.Format)
}

// imageInfo measures an image or device that no guest uses.
func imageInfo(path, format string) (*libvirt.DomainGetBlockInfoRet, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot open '%s' to measure it: %w", path, err)
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot measure '%s': %w", path, err)
	}
	size := uint64(end)
	ret := &libvirt.DomainGetBlockInfoRet{Capacity: size, Physical: size, Allocation: size}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			ret.Allocation = uint64(st.Blocks) * 512
		}
	}
	if format != "qcow2" {
		return ret, nil
	}
	h, err := qcow2.ReadHeader(qcow2.OSFile{File: f})
	if err != nil {
		return nil, virterr.New(virterr.ConfigUnsupported, "cannot use image '%s' as qcow2: %w", path, err)
	}
	ret.Capacity = uint64(h.Size)
	return ret, nil
}
