package manager

import (
	"context"

	"virtd/domain"
	"virtd/virterr"
)

// Define stores a definition: a new domain, or a new configuration for the one with its UUID. The definition is durable
// when Define returns. A running domain keeps running as it is.
func (m *Manager) Define(ctx context.Context, xml string, flags DefineFlags) (*Domain, error) {
	if err := checkFlags(flags, DefineValidate, "qemuDomainDefineXMLFlags"); err != nil {
		return nil, err
	}
	opts := m.parseOptions()
	opts.Validate = flags&DefineValidate != 0
	def, err := domain.Parse(xml, opts)
	if err != nil {
		return nil, err
	}
	d, j, err := m.claim(ctx, def, "define")
	if err != nil {
		return nil, err
	}
	defer j.end()
	existed, err := d.store(def)
	if err != nil {
		if !existed {
			m.forget(d)
		}
		return nil, err
	}
	m.reveal(d)
	return d, nil
}

// store makes def the persistent definition. The caller has the job. existed is false when nothing knows the domain
// unless this succeeded.
func (d *Domain) store(def *domain.Definition) (existed bool, err error) {
	d.mu.Lock()
	wasPersistent, running := d.persistent, d.run != nil
	d.mu.Unlock()
	existed = wasPersistent || running
	if err := d.m.cfg.Store.Save(def); err != nil {
		return existed, err
	}
	detail := DefinedAdded
	if wasPersistent {
		detail = DefinedUpdated
	}
	d.mu.Lock()
	d.persistent, d.transient = true, nil
	d.updated = running
	d.emitLifecycle(LifecycleDefined, detail)
	d.mu.Unlock()
	if running && !wasPersistent {
		return existed, d.syncStatus()
	}
	return existed, nil
}

// Undefine removes the stored definition. A running domain becomes transient.
func (d *Domain) Undefine(ctx context.Context, flags UndefineFlags) error {
	if err := checkFlags(flags, undefineKnown, "qemuDomainUndefineFlags"); err != nil {
		return err
	}
	j, err := d.begin(ctx, "undefine")
	if err != nil {
		return err
	}
	defer j.end()
	if !d.Persistent() {
		return virterr.New(virterr.OperationInvalid, "cannot undefine transient domain")
	}
	if err := d.undefineSaved(flags); err != nil {
		return err
	}
	var def *domain.Definition // what a running domain goes on with
	if d.Active() {
		if def, err = d.definition(); err != nil {
			_, def, err = d.engine() // the stored file is unreadable: what runs serves as well
		}
		if err != nil {
			def = nil
		}
	}
	if err := d.m.cfg.Store.Delete(d.uuid); err != nil {
		return err
	}
	d.mu.Lock()
	d.persistent, d.transient, d.updated = false, def, false
	running := d.run != nil
	d.emitLifecycle(LifecycleUndefined, UndefinedRemoved)
	d.mu.Unlock()
	if running {
		return d.syncStatus()
	}
	d.m.forget(d)
	return d.m.cfg.Store.DeleteStatus(d.uuid) // why it was off
}

// SetAutostart marks the domain to be started with the host, or not.
func (d *Domain) SetAutostart(ctx context.Context, on bool) error {
	j, err := d.begin(ctx, "set-autostart")
	if err != nil {
		return err
	}
	defer j.end()
	if !d.Persistent() {
		return virterr.New(virterr.OperationInvalid, "cannot set autostart for transient domain")
	}
	return d.m.cfg.Store.SetAutostart(d.uuid, on)
}

// Autostart reports whether the domain starts with the host.
func (d *Domain) Autostart() (bool, error) {
	if d.isRemoved() {
		return false, d.notFound()
	}
	return d.entry().Autostart, nil
}

// targets resolves flags to what they mean for this domain now: live, config or both.
func (d *Domain) targets(flags Affect) (live, config bool, err error) {
	d.mu.Lock()
	running, persistent, removed := d.run != nil, d.persistent, d.removed
	d.mu.Unlock()
	if removed {
		return false, false, d.notFound()
	}
	live, config = flags&AffectLive != 0, flags&AffectConfig != 0
	if !live && !config {
		live, config = running, !running
	}
	if live && !running {
		return false, false, notRunning()
	}
	if config && !persistent {
		return false, false, virterr.New(virterr.OperationInvalid, "transient domains do not have any persistent config")
	}
	return live, config, nil
}

// change edits the live definition, the stored one, or both, as flags say, under a job. apply is called before the live
// definition changes, with the engine; it may be nil. Nothing is stored unless every edit succeeds.
func (d *Domain) change(ctx context.Context, what string, flags Affect, edit func(*domain.Definition) (*domain.Definition, error),
	apply func(ctx context.Context, r *run) error) error {
	j, err := d.begin(ctx, what)
	if err != nil {
		return err
	}
	defer j.end()
	live, config, err := d.targets(flags)
	if err != nil {
		return err
	}
	var stored, running *domain.Definition
	if config {
		if stored, err = d.definition(); err == nil {
			stored, err = edit(stored)
		}
		if err != nil {
			return err
		}
	}
	if live {
		_, current, err := d.engine()
		if err != nil {
			return err
		}
		if running, err = edit(current); err != nil {
			return err
		}
		if apply != nil {
			d.mu.Lock()
			r := d.run
			d.mu.Unlock()
			cctx, cancel := d.call(j.ctx)
			defer cancel()
			if r == nil {
				return notRunning()
			}
			if err := apply(cctx, r); err != nil {
				return j.outcome(d, err)
			}
		}
		d.mu.Lock()
		if r := d.run; r != nil {
			if r.live != current { // a device or vCPU came or went meanwhile
				if again, err := edit(r.live); err == nil {
					running = again
				}
			}
			r.live = running
		}
		d.mu.Unlock()
		if err := d.syncStatus(); err != nil {
			return err
		}
	}
	if config {
		return d.m.cfg.Store.Save(stored)
	}
	return nil
}
