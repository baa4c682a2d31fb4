package daemon

import (
	"context"
	"slices"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/domain/manager"
	"virtd/rpc"
	"virtd/virterr"
)

// registerIOTune answers about the limits of disks and changes them.
func (d *Daemon) registerIOTune(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainGetBlockIOTune, d.domainGetBlockIOTune)
	on(reg, rpc.ProcDomainSetBlockIOTune, d.domainSetBlockIOTune)
}

func (d *Daemon) domainGetBlockIOTune(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetBlockIOTuneArgs) (*libvirt.DomainGetBlockIOTuneRet, error) {
	if err := onlyFlags(a.Flags, affectFlags|stringOkay, "virDomainGetBlockIoTune"); err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	var tune domain.IOTune
	// without a disk it is the first pass, which is only about the number
	if name := optional(a.Disk); name != "" {
		tune, err = dom.IOTune(name, manager.Affect(a.Flags))
	} else {
		_, _, err = dom.Affected(manager.Affect(a.Flags))
	}
	if err != nil {
		return nil, err
	}
	var params []libvirt.TypedParam
	for _, name := range domain.IOTuneNames {
		if n := tune.Number(name); n != nil {
			params = append(params, ullongParam(name, *n))
		} else {
			params = append(params, stringParam(name, tune.Group))
		}
	}
	ret := &libvirt.DomainGetBlockIOTuneRet{}
	ret.Params, ret.Nparams = twoPass(params, a.Nparams, a.Flags)
	return ret, nil
}

func (d *Daemon) domainSetBlockIOTune(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSetBlockIOTuneArgs) (*none, error) {
	change, err := readIOTune(a.Params)
	if err != nil {
		return nil, err
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.SetIOTune(ctx, a.Disk, change, manager.Affect(a.Flags))
}

// readIOTune reads the parameters of a change of limits.
func readIOTune(params []libvirt.TypedParam) (manager.IOTuneChange, error) {
	var c manager.IOTuneChange
	for _, p := range params {
		n := c.Values.Number(p.Field)
		switch {
		case n == nil && p.Field != domain.IOTuneGroup:
			return c, virterr.New(virterr.ArgumentUnsupported, "parameter '%s' not supported", p.Field)
		case slices.Contains(c.Named, p.Field):
			return c, virterr.New(virterr.InvalidArg, "parameter '%s' occurs multiple times", p.Field)
		}
		c.Named = append(c.Named, p.Field)
		if n == nil {
			text, ok := p.Value.I.(string)
			if !ok {
				return c, wrongType(p, "string")
			}
			c.Values.Group = text
			continue
		}
		v, ok := p.Value.I.(uint64)
		if !ok {
			return c, wrongType(p, "ullong")
		}
		if v > domain.MaxIOTune {
			return c, virterr.New(virterr.ArgumentUnsupported, "block I/O throttle limit value must be no more than %d", uint64(domain.MaxIOTune))
		}
		*n = v
	}
	return c, nil
}

// wrongType is the error for a parameter whose value has another type than the one that it must have.
func wrongType(p libvirt.TypedParam, want string) error {
	names := [...]string{"unknown", "int", "uint", "llong", "ullong", "double", "boolean", "string"} // virTypedParameterType
	got := names[0]
	if int(p.Value.D) < len(names) {
		got = names[p.Value.D]
	}
	return virterr.New(virterr.InvalidArg, "invalid type '%s' for parameter '%s', expected '%s'", got, p.Field, want)
}
