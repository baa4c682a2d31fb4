package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) registerHost(reg *rpc.Registry) {
	on(reg, rpc.ProcNodeGetInfo, d.nodeGetInfo)
	on(reg, rpc.ProcConnectGetMaxVcpus, d.connectGetMaxVcpus)
	on(reg, rpc.ProcConnectGetCapabilities, d.connectGetCapabilities)
	on(reg, rpc.ProcConnectGetDomainCapabilities, d.connectGetDomainCapabilities)
	on(reg, rpc.ProcConnectGetCPUModelNames, d.connectGetCPUModelNames)
	on(reg, rpc.ProcConnectGetSysinfo, d.connectGetSysinfo)
	on(reg, rpc.ProcNodeGetMemoryStats, d.nodeGetMemoryStats)
	on(reg, rpc.ProcNodeGetCPUStats, d.nodeGetCPUStats)
	on(reg, rpc.ProcNodeGetCPUMap, d.nodeGetCPUMap)
	on(reg, rpc.ProcNodeGetFreeMemory, d.nodeGetFreeMemory)
	on(reg, rpc.ProcNodeGetCellsFreeMemory, d.nodeGetCellsFreeMemory)
	on(reg, rpc.ProcNodeGetFreePages, d.nodeGetFreePages)
	on(reg, rpc.ProcNodeGetSecurityModel, d.nodeGetSecurityModel)
}

func (d *Daemon) nodeGetInfo(context.Context, *rpc.Call, *none) (*libvirt.NodeGetInfoRet, error) {
	s, err := d.node.Summary()
	if err != nil {
		return nil, err
	}
	ret := &libvirt.NodeGetInfoRet{
		Memory: s.Memory, Cpus: int32(s.CPUs), Mhz: int32(s.MHz),
		Nodes: int32(s.Nodes), Sockets: int32(s.Sockets), Cores: int32(s.Cores), Threads: int32(s.Threads),
	}
	for i := range min(len(s.Model), len(ret.Model)-1) {
		ret.Model[i] = int8(s.Model[i])
	}
	return ret, nil
}

func (d *Daemon) connectGetMaxVcpus(_ context.Context, _ *rpc.Call, a *libvirt.ConnectGetMaxVcpusArgs) (*libvirt.ConnectGetMaxVcpusRet, error) {
	switch t := optional(a.Type); t {
	case "", "kvm", "KVM":
		return &libvirt.ConnectGetMaxVcpusRet{MaxVcpus: domain.MaxVCPUs}, nil
	default:
		return nil, virterr.New(virterr.InvalidArg, "unknown type '%s': this host runs kvm domains", t)
	}
}

// nodeGetMemoryStats answers in two passes: without room for values it tells how many there are.
func (d *Daemon) nodeGetMemoryStats(_ context.Context, _ *rpc.Call, a *libvirt.NodeGetMemoryStatsArgs) (*libvirt.NodeGetMemoryStatsRet, error) {
	if err := noFlags(a.Flags, "virNodeGetMemoryStats"); err != nil {
		return nil, err
	}
	names := []struct{ field, key string }{{"total", "MemTotal"}, {"free", "MemFree"}, {"buffers", "Buffers"}, {"cached", "Cached"}}
	var info map[string]uint64
	var err error
	if a.CellNum == -1 {
		info, err = d.node.Memory()
	} else {
		names = names[:2] // what the kernel tells by NUMA node
		info, err = d.node.CellMemory(int(a.CellNum))
	}
	if err != nil {
		return nil, virterr.New(virterr.InvalidArg, "cell number %d: %w", a.CellNum, err)
	}
	ret := &libvirt.NodeGetMemoryStatsRet{Nparams: int32(len(names))}
	if a.Nparams == 0 {
		return ret, nil
	}
	if a.Nparams != ret.Nparams {
		return nil, virterr.New(virterr.InvalidArg, "nparams is %d, there are %d values", a.Nparams, ret.Nparams)
	}
	for _, n := range names {
		ret.Params = append(ret.Params, libvirt.NodeGetMemoryStats{Field: n.field, Value: info[n.key]})
	}
	return ret, nil
}

// nodeGetCPUStats answers in two passes, as nodeGetMemoryStats.
func (d *Daemon) nodeGetCPUStats(_ context.Context, _ *rpc.Call, a *libvirt.NodeGetCPUStatsArgs) (*libvirt.NodeGetCPUStatsRet, error) {
	if err := noFlags(a.Flags, "virNodeGetCPUStats"); err != nil {
		return nil, err
	}
	times, err := d.node.CPUTimes(int(a.CPUNum))
	if err != nil {
		return nil, virterr.New(virterr.InvalidArg, "invalid cpuNum: %w", err)
	}
	values := []libvirt.NodeGetCPUStats{
		{Field: "kernel", Value: times.Kernel}, {Field: "user", Value: times.User},
		{Field: "idle", Value: times.Idle}, {Field: "iowait", Value: times.IOWait},
	}
	ret := &libvirt.NodeGetCPUStatsRet{Nparams: int32(len(values))}
	if a.Nparams == 0 {
		return ret, nil
	}
	if a.Nparams != ret.Nparams {
		return nil, virterr.New(virterr.InvalidArg, "nparams is %d, there are %d values", a.Nparams, ret.Nparams)
	}
	ret.Params = values
	return ret, nil
}

func (d *Daemon) nodeGetCPUMap(_ context.Context, _ *rpc.Call, a *libvirt.NodeGetCPUMapArgs) (*libvirt.NodeGetCPUMapRet, error) {
	if err := noFlags(a.Flags, "virNodeGetCPUMap"); err != nil {
		return nil, err
	}
	cpus, err := d.node.CPUs()
	if err != nil {
		return nil, err
	}
	last := cpus[len(cpus)-1].ID
	ret := &libvirt.NodeGetCPUMapRet{Ret: int32(last + 1)}
	bits := make([]byte, last/8+1)
	for _, c := range cpus {
		if c.Online {
			bits[c.ID/8] |= 1 << (c.ID % 8)
			ret.Online++
		}
	}
	if a.NeedMap != 0 {
		ret.Cpumap = bits
	}
	if a.NeedOnline == 0 {
		ret.Online = 0
	}
	return ret, nil
}

// nodeGetFreeMemory tells bytes, unlike most of the protocol.
func (d *Daemon) nodeGetFreeMemory(context.Context, *rpc.Call, *none) (*libvirt.NodeGetFreeMemoryRet, error) {
	info, err := d.node.Memory()
	if err != nil {
		return nil, err
	}
	return &libvirt.NodeGetFreeMemoryRet{FreeMem: info["MemFree"] * 1024}, nil
}

func (d *Daemon) nodeGetCellsFreeMemory(_ context.Context, _ *rpc.Call, a *libvirt.NodeGetCellsFreeMemoryArgs) (*libvirt.NodeGetCellsFreeMemoryRet, error) {
	cells, err := d.node.Cells()
	if err != nil {
		return nil, err
	}
	last := cells[len(cells)-1].ID
	if a.StartCell < 0 || a.Maxcells <= 0 || int(a.StartCell) > last {
		return nil, virterr.New(virterr.InvalidArg, "start cell %d out of range (0-%d)", a.StartCell, last)
	}
	ret := &libvirt.NodeGetCellsFreeMemoryRet{}
	for _, c := range cells {
		if c.ID >= int(a.StartCell) && len(ret.Cells) < int(a.Maxcells) {
			ret.Cells = append(ret.Cells, c.Free*1024)
		}
	}
	return ret, nil
}

func (d *Daemon) nodeGetFreePages(_ context.Context, _ *rpc.Call, a *libvirt.NodeGetFreePagesArgs) (*libvirt.NodeGetFreePagesRet, error) {
	if err := noFlags(a.Flags, "virNodeGetFreePages"); err != nil {
		return nil, err
	}
	cells, err := d.node.Cells()
	if err != nil {
		return nil, err
	}
	ret := &libvirt.NodeGetFreePagesRet{}
	for _, c := range cells {
		if c.ID < int(a.StartCell) || uint32(c.ID)-uint32(a.StartCell) >= a.CellCount {
			continue
		}
		for _, size := range a.Pages {
			n, ok := d.node.FreePages(c.ID, size)
			if !ok {
				return nil, virterr.New(virterr.OperationFailed, "page size %d KiB is not available on node %d", size, c.ID)
			}
			ret.Counts = append(ret.Counts, n)
		}
	}
	if len(ret.Counts) == 0 {
		return nil, virterr.New(virterr.InvalidArg, "start cell %d out of range (0-%d)", a.StartCell, cells[len(cells)-1].ID)
	}
	return ret, nil
}

// nodeGetSecurityModel says that domains carry no security labels: confinement is the engine's own.
func (d *Daemon) nodeGetSecurityModel(context.Context, *rpc.Call, *none) (*libvirt.NodeGetSecurityModelRet, error) {
	return &libvirt.NodeGetSecurityModelRet{Model: cString(""), Doi: cString("")}, nil
}

// cString is text in an array of chars: with its terminator, which clients count on.
func cString(s string) []int8 {
	out := make([]int8, len(s)+1)
	for i := range len(s) {
		out[i] = int8(s[i])
	}
	return out
}
