package daemon

import (
	"context"
	"slices"
	"strconv"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/domain/manager"
	"virtd/domain/xmltree"
	"virtd/rpc"
)

// registerTuning answers what limits a domain has. Those of a running domain are what is in force: its disks' (see
// registerIOTune) and no others, since a definition that asks for other hard limits is refused (domain/schema.txt), and weights
// are kept without being applied. A configuration shows what it says.
func (d *Daemon) registerTuning(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainGetSchedulerType, d.domainGetSchedulerType)
	on(reg, rpc.ProcDomainGetSchedulerParameters, d.domainGetSchedulerParameters)
	on(reg, rpc.ProcDomainGetSchedulerParametersFlags, d.domainGetSchedulerParametersFlags)
	on(reg, rpc.ProcDomainGetMemoryParameters, d.domainGetMemoryParameters)
	on(reg, rpc.ProcDomainGetBlkioParameters, d.domainGetBlkioParameters)
	on(reg, rpc.ProcDomainGetNumaParameters, d.domainGetNumaParameters)
	on(reg, rpc.ProcDomainGetInterfaceParameters, d.domainGetInterfaceParameters)
	on(reg, rpc.ProcDomainSetInterfaceParameters, d.domainSetInterfaceParameters)
	on(reg, rpc.ProcDomainGetPerfEvents, d.domainGetPerfEvents)
	on(reg, rpc.ProcDomainGetIothreadInfo, d.domainGetIOThreadInfo)
	on(reg, rpc.ProcDomainGetEmulatorPinInfo, d.domainGetEmulatorPinInfo)
	on(reg, rpc.ProcDomainPinEmulator, d.domainPinEmulator)
}

// stringOkay tells that the client understands parameters that are strings (VIR_TYPED_PARAM_STRING_OKAY).
const stringOkay = uint32(libvirt.TypedParamStringOkay)

// affectFlags are those of most queries of one configuration.
const affectFlags = uint32(manager.AffectLive | manager.AffectConfig)

// unlimited is what libvirt shows for memory without a limit, in KiB.
const unlimited = uint64(1<<53 - 1)

// tuned finds what a query of limits is about: the document of the configuration, or nil where the domain runs.
func (d *Daemon) tuned(ref libvirt.Domain, flags uint32, function string) (*domain.Definition, *xmltree.Node, error) {
	if err := onlyFlags(flags, affectFlags|stringOkay, function); err != nil {
		return nil, nil, err
	}
	dom, err := d.domain(ref)
	if err != nil {
		return nil, nil, err
	}
	def, live, err := dom.Affected(manager.Affect(flags & affectFlags))
	if err != nil || live {
		return def, nil, err
	}
	return def, def.Tree().Root, nil
}

// twoPass is the answer to a call that is made twice: how many parameters there are, then as many as the caller has room for.
func twoPass(params []libvirt.TypedParam, room int32, flags uint32) ([]libvirt.TypedParam, int32) {
	const paramString = 7
	if flags&stringOkay == 0 {
		params = slices.DeleteFunc(params, func(p libvirt.TypedParam) bool { return p.Value.D == paramString })
	}
	if room <= 0 {
		return nil, int32(len(params))
	}
	params = params[:min(len(params), int(room))]
	return params, int32(len(params))
}

func uintParam(name string, v uint32) libvirt.TypedParam {
	return libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueUint(v)}
}

func ullongParam(name string, v uint64) libvirt.TypedParam {
	return libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueUllong(v)}
}

func stringParam(name, v string) libvirt.TypedParam {
	return libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueString(v)}
}

// defaultWeight is the kernel's for a cgroup without one (cpu.weight, cgroup-v2.rst).
const defaultWeight = 100

// domainGetSchedulerType has one parameter for every domain, its share of the processors.
func (d *Daemon) domainGetSchedulerType(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetSchedulerTypeArgs) (*libvirt.DomainGetSchedulerTypeRet, error) {
	if _, err := d.domain(a.Dom); err != nil {
		return nil, err
	}
	return &libvirt.DomainGetSchedulerTypeRet{Type: "posix", Nparams: 1}, nil
}

func (d *Daemon) domainGetSchedulerParameters(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetSchedulerParametersArgs) (*libvirt.DomainGetSchedulerParametersRet, error) {
	params, err := d.schedulerParameters(a.Dom, a.Nparams, 0)
	return &libvirt.DomainGetSchedulerParametersRet{Params: params}, err
}

func (d *Daemon) domainGetSchedulerParametersFlags(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetSchedulerParametersFlagsArgs) (*libvirt.DomainGetSchedulerParametersFlagsRet, error) {
	params, err := d.schedulerParameters(a.Dom, a.Nparams, a.Flags)
	return &libvirt.DomainGetSchedulerParametersFlagsRet{Params: params}, err
}

func (d *Daemon) schedulerParameters(ref libvirt.Domain, room int32, flags uint32) ([]libvirt.TypedParam, error) {
	_, config, err := d.tuned(ref, flags, "virDomainGetSchedulerParametersFlags")
	if err != nil {
		return nil, err
	}
	shares := uint64(defaultWeight)
	if config != nil {
		shares, _ = strconv.ParseUint(config.Child("cputune", "shares").Trimmed(), 10, 64) // none is 0, as in libvirt
	}
	params, _ := twoPass([]libvirt.TypedParam{ullongParam("cpu_shares", shares)}, max(room, 1), flags)
	return params, nil
}

func (d *Daemon) domainGetMemoryParameters(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetMemoryParametersArgs) (*libvirt.DomainGetMemoryParametersRet, error) {
	_, config, err := d.tuned(a.Dom, a.Flags, "virDomainGetMemoryParameters")
	if err != nil {
		return nil, err
	}
	soft := unlimited
	if n := config.Child("memtune", "soft_limit"); n != nil {
		if bytes, err := domain.ParseSize(n.Trimmed(), n.Attr("unit")); err == nil {
			soft = bytes >> 10
		}
	}
	ret := &libvirt.DomainGetMemoryParametersRet{}
	ret.Params, ret.Nparams = twoPass([]libvirt.TypedParam{
		ullongParam("hard_limit", unlimited), ullongParam("soft_limit", soft), ullongParam("swap_hard_limit", unlimited),
	}, a.Nparams, a.Flags)
	return ret, nil
}

func (d *Daemon) domainGetBlkioParameters(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetBlkioParametersArgs) (*libvirt.DomainGetBlkioParametersRet, error) {
	_, config, err := d.tuned(a.Dom, a.Flags, "virDomainGetBlkioParameters")
	if err != nil {
		return nil, err
	}
	weight, _ := strconv.ParseUint(config.Child("blkiotune", "weight").Trimmed(), 10, 32)
	devices := ""
	for _, n := range config.Child("blkiotune").All("device") {
		if devices != "" {
			devices += ","
		}
		devices += n.Child("path").Trimmed() + "," + n.Child("weight").Trimmed()
	}
	ret := &libvirt.DomainGetBlkioParametersRet{}
	ret.Params, ret.Nparams = twoPass([]libvirt.TypedParam{
		uintParam("weight", uint32(weight)), stringParam("device_weight", devices),
		stringParam("device_read_iops_sec", ""), stringParam("device_write_iops_sec", ""),
		stringParam("device_read_bytes_sec", ""), stringParam("device_write_bytes_sec", ""),
	}, a.Nparams, a.Flags)
	return ret, nil
}

// numaModes are virDomainNumatuneMemMode, by number.
var numaModes = []string{"strict", "preferred", "interleave", "restrictive"}

func (d *Daemon) domainGetNumaParameters(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetNumaParametersArgs) (*libvirt.DomainGetNumaParametersRet, error) {
	_, config, err := d.tuned(a.Dom, a.Flags, "virDomainGetNumaParameters")
	if err != nil {
		return nil, err
	}
	memory := config.Child("numatune", "memory")
	mode := max(slices.Index(numaModes, memory.Attr("mode")), 0)
	ret := &libvirt.DomainGetNumaParametersRet{}
	ret.Params, ret.Nparams = twoPass([]libvirt.TypedParam{
		{Field: "numa_mode", Value: *libvirt.NewTypedParamValueInt(int32(mode))}, stringParam("numa_nodeset", memory.Attr("nodeset")),
	}, a.Nparams, a.Flags)
	return ret, nil
}

// hasDisk finds a disk by target or image.
func hasDisk(def *domain.Definition, name string) bool {
	return slices.ContainsFunc(def.Tree().Root.Child("devices").All("disk"), func(n *xmltree.Node) bool {
		return n.Child("target").Attr("dev") == name || domain.DiskPath(n) == name
	})
}

// perfEvents are libvirt's names of performance counters, all of which are off: the engine opens none.
var perfEvents = []string{
	"cmt", "mbmt", "mbml", "cpu_cycles", "instructions", "cache_references", "cache_misses", "branch_instructions", "branch_misses",
	"bus_cycles", "stalled_cycles_frontend", "stalled_cycles_backend", "ref_cpu_cycles", "cpu_clock", "task_clock", "page_faults",
	"context_switches", "cpu_migrations", "page_faults_min", "page_faults_maj", "alignment_faults", "emulation_faults",
}

func (d *Daemon) domainGetPerfEvents(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetPerfEventsArgs) (*libvirt.DomainGetPerfEventsRet, error) {
	if _, _, err := d.tuned(a.Dom, uint32(a.Flags), "virDomainGetPerfEvents"); err != nil {
		return nil, err
	}
	ret := &libvirt.DomainGetPerfEventsRet{}
	for _, name := range perfEvents {
		ret.Params = append(ret.Params, libvirt.TypedParam{Field: name, Value: libvirt.TypedParamValue{D: paramBoolean, I: int32(0)}})
	}
	return ret, nil
}

// paramBoolean is VIR_TYPED_PARAM_BOOLEAN.
const paramBoolean = 6

// domainGetIOThreadInfo lists none: disks have threads of the engine's own, which are not the domain's to number.
func (d *Daemon) domainGetIOThreadInfo(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetIothreadInfoArgs) (*libvirt.DomainGetIothreadInfoRet, error) {
	_, _, err := d.tuned(a.Dom, uint32(a.Flags), "virDomainGetIOThreadInfo")
	return &libvirt.DomainGetIothreadInfoRet{}, err
}

func (d *Daemon) domainPinEmulator(ctx context.Context, _ *rpc.Call, a *libvirt.DomainPinEmulatorArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.PinEmulator(ctx, a.Cpumap, manager.Affect(a.Flags))
}

// domainGetEmulatorPinInfo says where threads other than vCPUs may run.
func (d *Daemon) domainGetEmulatorPinInfo(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetEmulatorPinInfoArgs) (*libvirt.DomainGetEmulatorPinInfoRet, error) {
	def, _, err := d.tuned(a.Dom, uint32(a.Flags), "virDomainGetEmulatorPinInfo")
	if err != nil {
		return nil, err
	}
	cpus, err := d.node.CPUs()
	if err != nil {
		return nil, err
	}
	allowed := func(int) bool { return true }
	if set := def.EmulatorPin(); set != "" {
		if list, err := domain.ParseCPUSet(set); err == nil {
			allowed = func(id int) bool { return slices.Contains(list, id) }
		}
	}
	bits := make([]byte, min(max(int(a.Maplen), 0), cpus[len(cpus)-1].ID/8+1))
	for _, c := range cpus {
		if c.ID/8 < len(bits) && allowed(c.ID) {
			bits[c.ID/8] |= 1 << (c.ID % 8)
		}
	}
	return &libvirt.DomainGetEmulatorPinInfoRet{Cpumaps: bits, Ret: 1}, nil
}
