package manager

import (
	"context"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/driver"
	"virtd/network/portconf"
)

// InterfaceBandwidth returns the rates of an interface, which is named by its MAC address or, while the domain runs, by its
// host end.
func (d *Domain) InterfaceBandwidth(device string, flags Affect) (portconf.Bandwidth, error) {
	def, _, err := d.Affected(flags)
	if err != nil {
		return portconf.Bandwidth{}, err
	}
	return def.InterfaceBandwidth(device)
}

// SetInterfaceBandwidth gives an interface other rates: of each direction that is named those of b, and leaves the other.
func (d *Domain) SetInterfaceBandwidth(ctx context.Context, device string, in, out *portconf.Rate, flags Affect) error {
	mac := device
	edit := func(def *domain.Definition) (*domain.Definition, error) {
		b, err := def.InterfaceBandwidth(mac)
		if err != nil {
			return nil, err
		}
		if in != nil {
			b.In = *in
		}
		if out != nil {
			b.Out = *out
		}
		return def.SetInterfaceBandwidth(mac, b)
	}
	if live, _, err := d.targets(flags); err == nil && live { // the configuration knows no host ends
		if _, def, err := d.engine(); err == nil {
			if _, address, err := def.InterfaceAlias(device); err == nil {
				mac = address
			}
		}
	}
	return d.change(ctx, "set-interface-parameters", flags, edit, func(ctx context.Context, r *run) error {
		_, def, err := d.engine()
		if err != nil {
			return err
		}
		alias, _, err := def.InterfaceAlias(mac)
		if err != nil {
			return err
		}
		return d.updateInterface(ctx, r, alias, edit)
	})
}

// updateInterface makes the host's end of a running domain's interface what an edit of its definition says. A network hears of
// other rates first, because it may not have them.
func (d *Domain) updateInterface(ctx context.Context, r *run, alias string, edit func(*domain.Definition) (*domain.Definition, error)) error {
	_, before, err := d.engine()
	if err != nil {
		return err
	}
	next, err := edit(before)
	if err != nil {
		return err
	}
	had, port := limitsOf(before, alias)
	gets, _ := limitsOf(next, alias)
	limit := func(b portconf.Bandwidth) error {
		if port == uuid.Nil || had == gets || d.m.cfg.Networks == nil {
			return nil
		}
		return d.m.cfg.Networks.Limit(port, b)
	}
	if err := limit(gets); err != nil {
		return err
	}
	if err := r.inst.UpdateInterface(ctx, alias, next); err != nil {
		if lerr := limit(had); lerr != nil {
			d.m.log.Error("a network keeps the rates that an interface could not get", "domain", d.Name(), "interface", alias, "err", lerr)
		}
		return err
	}
	return nil
}

// backendChanged notes who moves an interface's packets now. The caller holds d.mu.
func (d *Domain) backendChanged(r *run, e driver.InterfaceBackend) {
	live, err := r.live.SetRuntime(domain.Runtime{NetDrivers: map[string]string{e.Alias: e.Driver}})
	if err != nil {
		d.m.log.Error("cannot note who moves the packets of an interface", "domain", d.ref().Name, "interface", e.Alias, "err", err)
		return
	}
	if r.live = live; r.inst != nil {
		r.record = r.inst.Record()
	}
	d.statusLater()
}

// limitsOf returns the rates of an interface on a virtual network, and its port there.
func limitsOf(def *domain.Definition, alias string) (portconf.Bandwidth, uuid.UUID) {
	for _, nic := range def.NetworkInterfaces() {
		if nic.Alias == alias {
			port, _ := uuid.Parse(nic.Port) // none is no port to tell
			return nic.Limits, port
		}
	}
	return portconf.Bandwidth{}, uuid.Nil
}
