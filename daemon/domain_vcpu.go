package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/domain/manager"
	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) registerVCPUs(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainSetVcpus, d.domainSetVcpus)
	on(reg, rpc.ProcDomainSetVcpusFlags, d.domainSetVcpusFlags)
	on(reg, rpc.ProcDomainSetVcpu, d.domainSetVcpu)
	on(reg, rpc.ProcDomainGetVcpusFlags, d.domainGetVcpusFlags)
	on(reg, rpc.ProcDomainGetMaxVcpus, d.domainGetMaxVcpus)
	on(reg, rpc.ProcDomainGetVcpus, d.domainGetVcpus)
	on(reg, rpc.ProcDomainPinVcpu, d.domainPinVcpu)
	on(reg, rpc.ProcDomainPinVcpuFlags, d.domainPinVcpuFlags)
	on(reg, rpc.ProcDomainGetVcpuPinInfo, d.domainGetVcpuPinInfo)
}

func (d *Daemon) domainSetVcpus(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetVcpusArgs) (*none, error) {
	return nil, d.setVCPUs(ctx, a.Dom, a.Nvcpus, manager.AffectLive)
}

func (d *Daemon) domainSetVcpusFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetVcpusFlagsArgs) (*none, error) {
	return nil, d.setVCPUs(ctx, a.Dom, a.Nvcpus, manager.Affect(a.Flags))
}

func (d *Daemon) setVCPUs(ctx context.Context, ref libvirt.Domain, n uint32, flags manager.Affect) error {
	dom, err := d.domain(ref)
	if err != nil {
		return err
	}
	if n > domain.MaxVCPUs {
		return virterr.New(virterr.InvalidArg, "requested vcpus is greater than max allowable vcpus for the domain: %d > %d", n, domain.MaxVCPUs)
	}
	return dom.SetVCPUs(ctx, int(n), flags)
}

func (d *Daemon) domainSetVcpu(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetVcpuArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	if a.State != 0 && a.State != 1 {
		return nil, virterr.New(virterr.InvalidArg, "unsupported state value")
	}
	vcpus, err := domain.ParseCPUSet(a.Cpumap)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetVCPU(ctx, vcpus, a.State == 1, manager.Affect(a.Flags))
}

func (d *Daemon) domainGetVcpusFlags(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetVcpusFlagsArgs) (*libvirt.DomainGetVcpusFlagsRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	n, err := dom.VCPUCount(manager.Affect(a.Flags))
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainGetVcpusFlagsRet{Num: int32(n)}, nil
}

func (d *Daemon) domainGetMaxVcpus(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetMaxVcpusArgs) (*libvirt.DomainGetMaxVcpusRet, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainGetMaxVcpusRet{Num: int32(dom.Info().MaxVCPUs)}, nil
}

// checkMaps bounds what a client asks room for: libvirt's REMOTE_CPUMAPS_MAX, which the reply must keep.
func checkMaps(count, length int32) error {
	const most = 8 << 20
	if count < 0 || length < 0 || int64(count)*int64(length) > most {
		return virterr.New(virterr.InvalidArg, "%d maps of %d bytes do not fit into a reply", count, length)
	}
	return nil
}

func (d *Daemon) domainGetVcpus(ctx context.Context, _ *rpc.Call, a *libvirt.DomainGetVcpusArgs) (*libvirt.DomainGetVcpusRet, error) {
	if err := checkMaps(a.Maxinfo, a.Maplen); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	vcpus, err := dom.VCPUs(ctx)
	if err != nil {
		return nil, err
	}
	vcpus = vcpus[:min(len(vcpus), int(a.Maxinfo))]
	ret := &libvirt.DomainGetVcpusRet{Cpumaps: make([]byte, len(vcpus)*int(a.Maplen))}
	for i, v := range vcpus {
		ret.Info = append(ret.Info, libvirt.VcpuInfo{Number: uint32(v.Number), State: int32(v.State), CPUTime: uint64(v.Time), CPU: int32(v.CPU)})
		copy(ret.Cpumaps[i*int(a.Maplen):(i+1)*int(a.Maplen)], v.Affinity)
	}
	return ret, nil
}

func (d *Daemon) domainPinVcpu(ctx context.Context, _ *rpc.Call, a *libvirt.DomainPinVcpuArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.PinVCPU(ctx, int(a.Vcpu), a.Cpumap, manager.AffectLive)
}

func (d *Daemon) domainPinVcpuFlags(ctx context.Context, _ *rpc.Call, a *libvirt.DomainPinVcpuFlagsArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.PinVCPU(ctx, int(a.Vcpu), a.Cpumap, manager.Affect(a.Flags))
}

// domainGetVcpuPinInfo fills the maps of vCPUs that are not pinned with all processors of the host.
func (d *Daemon) domainGetVcpuPinInfo(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetVcpuPinInfoArgs) (*libvirt.DomainGetVcpuPinInfoRet, error) {
	if err := checkMaps(a.Ncpumaps, a.Maplen); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	pins, err := dom.VCPUPins(manager.Affect(a.Flags))
	if err != nil {
		return nil, err
	}
	pins = pins[:min(len(pins), int(a.Ncpumaps))]
	all, err := d.hostCPUs()
	if err != nil {
		return nil, err
	}
	ret := &libvirt.DomainGetVcpuPinInfoRet{Cpumaps: make([]byte, len(pins)*int(a.Maplen)), Num: int32(len(pins))}
	for i, p := range pins {
		if p == nil {
			p = all
		}
		copy(ret.Cpumaps[i*int(a.Maplen):(i+1)*int(a.Maplen)], p)
	}
	return ret, nil
}

// hostCPUs is the map of the processors that are online.
func (d *Daemon) hostCPUs() ([]byte, error) {
	cpus, err := d.node.CPUs()
	if err != nil {
		return nil, err
	}
	bits := make([]byte, cpus[len(cpus)-1].ID/8+1)
	for _, c := range cpus {
		if c.Online {
			bits[c.ID/8] |= 1 << (c.ID % 8)
		}
	}
	return bits, nil
}
