package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/network/portconf"
	"virtd/rpc"
	"virtd/virterr"
)

// domainGetInterfaceParameters tells the rates of an interface: those in force, or those of a configuration.
func (d *Daemon) domainGetInterfaceParameters(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetInterfaceParametersArgs) (*libvirt.DomainGetInterfaceParametersRet, error) {
	flags := uint32(a.Flags)
	if err := onlyFlags(flags, affectFlags|stringOkay, "virDomainGetInterfaceParameters"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	b, err := dom.InterfaceBandwidth(a.Device, manager.Affect(flags&affectFlags))
	if err != nil {
		return nil, err
	}
	var params []libvirt.TypedParam
	for _, p := range rates(&b.In, &b.Out) {
		params = append(params, uintParam(p.name, uint32(*p.to)))
	}
	ret := &libvirt.DomainGetInterfaceParametersRet{}
	ret.Params, ret.Nparams = twoPass(params, a.Nparams, flags)
	return ret, nil
}

// rate is one number with its name in calls.
type rate struct {
	name string
	to   *uint64
	in   bool
}

func rates(in, out *portconf.Rate) []rate {
	return []rate{
		{"inbound.average", &in.Average, true}, {"inbound.peak", &in.Peak, true}, {"inbound.burst", &in.Burst, true}, {"inbound.floor", &in.Floor, true},
		{"outbound.average", &out.Average, false}, {"outbound.peak", &out.Peak, false}, {"outbound.burst", &out.Burst, false},
	}
}

// domainSetInterfaceParameters sets the rates of the directions that it names. An average of 0 takes a limit away.
func (d *Daemon) domainSetInterfaceParameters(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetInterfaceParametersArgs) (*none, error) {
	if err := onlyFlags(uint32(a.Flags), affectFlags, "virDomainSetInterfaceParameters"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	in, out, err := readRates(a.Params)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetInterfaceBandwidth(ctx, a.Device, in, out, manager.Affect(a.Flags))
}

// readRates reads parameters; a direction that none is about is nil.
func readRates(params []libvirt.TypedParam) (in, out *portconf.Rate, err error) {
	var i, o portconf.Rate
	for _, p := range params {
		known := false
		for _, r := range rates(&i, &o) {
			if r.name != p.Field {
				continue
			}
			v, ok := p.Value.I.(uint32)
			if !ok {
				return nil, nil, virterr.New(virterr.InvalidArg, "invalid type for parameter '%s', expected 'uint'", p.Field)
			}
			*r.to, known = uint64(v), true
			if r.in {
				in = &i
			} else {
				out = &o
			}
		}
		if !known {
			return nil, nil, virterr.New(virterr.InvalidArg, "parameter '%s' not supported", p.Field)
		}
	}
	for _, r := range []*portconf.Rate{in, out} {
		if r != nil && r.Average == 0 { // nothing that bursts
			*r = portconf.Rate{Floor: r.Floor}
		}
	}
	return in, out, nil
}
