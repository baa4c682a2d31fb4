package kvm

import (
	"context"
	"errors"
	"reflect"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/network/firewall"
	"virtd/network/portconf"
	"virtd/virterr"
)

// setFilter filters a tap, or ends that where f is nil.
func (d *Driver) setFilter(tap string, f *firewall.Filter) error {
	switch {
	case d.cfg.Filters == nil && f == nil:
		return nil
	case d.cfg.Filters == nil:
		return virterr.NewFrom(virterr.FromNWFilter, virterr.ConfigUnsupported, "filter '%s' of interface %s cannot be enforced: virtd has no right to the packet filter", f.Name, tap)
	case f == nil:
		return d.cfg.Filters.Remove(tap)
	}
	return d.cfg.Filters.Set(tap, f)
}

// keepFilters notes the filters that an adopted domain has.
func (d *Driver) keepFilters(live *domain.Definition, taps map[string]string) {
	if d.cfg.Filters == nil {
		return
	}
	for _, nic := range live.Tree().Root.Child("devices").All("interface") {
		tap := taps[nic.Child("alias").Attr("name")]
		f, err := firewall.ReadFilter(nic)
		switch {
		case err != nil:
			d.log.Error("the filter of a running domain's interface is not watched", "domain", live.Name(), "tap", tap, "err", err)
		case f != nil && tap != "":
			d.cfg.Filters.Keep(tap, f)
		}
	}
}

// releaseTaps takes filters and limits from taps that a domain has no more. Most are gone by themselves; what others made stays
// and shall be as before.
func (d *Driver) releaseTaps(taps map[string]string) {
	for _, tap := range taps {
		if err := d.setFilter(tap, nil); err != nil {
			d.log.Error("the filter of a tap that is not in use any more stays", "tap", tap, "err", err)
		}
		if err := d.cfg.Links.SetBandwidth(tap, portconf.Bandwidth{}); err != nil && !errors.Is(err, unix.ENODEV) {
			d.log.Error("the limits of a tap that is not in use any more stay", "tap", tap, "err", err)
		}
	}
}

// UpdateInterface implements driver.Instance. The engine has no part in it: the tap is the host's.
func (i *instance) UpdateInterface(_ context.Context, alias string, next *domain.Definition) error {
	i.attachMu.Lock()
	defer i.attachMu.Unlock()
	_, taps := i.used()
	tap, ok := taps[alias]
	if !ok {
		return virterr.New(virterr.OperationUnsupported,
			"Unable to set bandwidth for interface because device name is unknown (interface %s of domain '%s' has no tap or macvtap)", alias, i.name)
	}
	have, err := i.d.tapResource(i.definition(), alias)
	if err != nil {
		return err
	}
	want, err := i.d.tapResource(next, alias)
	if err != nil {
		return err
	}
	if err := i.d.updateTap(tap, have, want); err != nil {
		if berr := i.d.updateTap(tap, want, have); berr != nil {
			i.d.log.Error("a tap could not be put back as it was", "domain", i.name, "tap", tap, "err", berr)
		}
		return err
	}
	i.setDefinition(next)
	return nil
}

// tapResource plans the tap of one interface. Of a macvtap it is what can change: its rates.
func (d *Driver) tapResource(def *domain.Definition, alias string) (*TapResource, error) {
	_, resources, err := PlanDevice(def, alias, d.facts())
	if err != nil {
		return nil, err
	}
	for _, r := range resources {
		switch r.Kind {
		case ResourceTap:
			return r.Tap, nil
		case ResourceMacvtap:
			return &TapResource{Bandwidth: r.Macvtap.Bandwidth}, nil
		}
	}
	return nil, virterr.New(virterr.OperationUnsupported, "interface %s of domain '%s' has no tap", alias, def.Name())
}

// updateTap changes what differs.
func (d *Driver) updateTap(tap string, have, want *TapResource) error {
	moved := have.Bridge != want.Bridge
	if moved {
		if err := d.cfg.Links.Attach(want.Bridge, tap); err != nil {
			return err
		}
	}
	if moved && want.VLAN != nil || !reflect.DeepEqual(have.VLAN, want.VLAN) {
		if err := d.cfg.Links.SetVLAN(want.Bridge, tap, value(want.VLAN)); err != nil {
			return err
		}
	}
	if moved && want.Isolated || have.Isolated != want.Isolated {
		if err := d.cfg.Links.Isolate(tap, want.Isolated); err != nil {
			return err
		}
	}
	if !reflect.DeepEqual(have.Bandwidth, want.Bandwidth) {
		if err := d.cfg.Links.SetBandwidth(tap, value(want.Bandwidth)); err != nil {
			return err
		}
	}
	if have.Coalesce != want.Coalesce {
		if err := d.cfg.Links.SetCoalesce(tap, want.Coalesce); err != nil {
			return err
		}
	}
	if reflect.DeepEqual(have.Filter, want.Filter) {
		return nil
	}
	return d.setFilter(tap, want.Filter)
}

// value is what p points to, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
