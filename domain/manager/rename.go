package manager

import (
	"context"

	"virtd/virterr"
)

// Rename gives a stored domain that is off another name. It is durable when Rename returns; a crash leaves the old name or
// the new one. Lookups find one of the two at every instant.
func (d *Domain) Rename(ctx context.Context, name string) error {
	j, err := d.begin(ctx, "rename")
	if err != nil {
		return err
	}
	defer j.end()
	switch {
	case d.Active():
		return virterr.New(virterr.OperationInvalid, "cannot rename active domain")
	case !d.Persistent():
		return virterr.New(virterr.OperationInvalid, "cannot rename a transient domain")
	}
	if saved, err := d.HasManagedSave(); err != nil {
		return err
	} else if saved { // whose image has the old name
		return virterr.New(virterr.OperationInvalid, "domain with a managed saved state can't be renamed")
	}
	def, err := d.definition()
	if err != nil {
		return err
	}
	renamed, err := def.Rename(name) // refuses what is no name
	if err != nil {
		return err
	}
	if err := d.m.holdName(d, renamed.Name()); err != nil {
		return err
	}
	if err := d.m.cfg.Store.Save(renamed); err != nil {
		d.m.dropName(d, renamed.Name())
		return err
	}
	d.m.changeName(d, renamed.Name())
	return nil
}

// holdName keeps others from taking a name that d is about to get.
func (m *Manager) holdName(d *Domain, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byName[name] != nil {
		return virterr.New(virterr.OperationInvalid, "domain with name '%s' already exists", name)
	}
	m.byName[name] = d
	return nil
}

func (m *Manager) dropName(d *Domain, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byName[name] == d {
		delete(m.byName, name)
	}
}

// changeName makes the name that d holds its own and tells clients: the old name is gone, the new one is there.
func (m *Manager) changeName(d *Domain, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emitLifecycle(LifecycleUndefined, UndefinedRenamed)
	delete(m.byName, d.Name())
	m.order = nil
	d.name.Store(&name)
	d.emitLifecycle(LifecycleDefined, DefinedRenamed)
}
