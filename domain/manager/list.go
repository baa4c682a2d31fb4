package manager

import (
	"cmp"
	"slices"
)

// List returns the domains that match flags, running ones first in order of their numbers, then the others by name. The
// zero flags match all.
func (m *Manager) List(flags ListFlags) []*Domain {
	type row struct {
		d    *Domain
		id   int
		name string
	}
	var rows []row
	for _, d := range m.all() {
		f := d.listFacts()
		if flags.match(f) {
			rows = append(rows, row{d, f.id, d.Name()})
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		if a.id < 0 || b.id < 0 {
			return cmp.Or(cmp.Compare(b.id, a.id)*boolInt(a.id < 0 != (b.id < 0)), cmp.Compare(a.name, b.name))
		}
		return cmp.Compare(a.id, b.id)
	})
	list := make([]*Domain, len(rows))
	for i, r := range rows {
		list[i] = r.d
	}
	return list
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// listFacts are what list flags ask about.
type listFacts struct {
	id                    int
	state                 State
	persistent, autostart bool
	saved                 bool
}

func (d *Domain) listFacts() listFacts {
	entry := d.entry()
	d.mu.Lock()
	defer d.mu.Unlock()
	return listFacts{id: d.id, state: d.state, persistent: d.persistent, autostart: entry.Autostart, saved: d.saved}
}

// match tells whether a domain with those facts is wanted.
func (flags ListFlags) match(f listFacts) bool {
	active := f.state.active()
	other := f.state != Running && f.state != Paused && f.state != ShutOff
	for _, group := range [][]struct {
		flag ListFlags
		is   bool
	}{
		{{ListActive, active}, {ListInactive, !active}},
		{{ListPersistent, f.persistent}, {ListTransient, !f.persistent}},
		{{ListRunning, f.state == Running}, {ListPaused, f.state == Paused}, {ListShutOff, f.state == ShutOff}, {ListOther, other}},
		{{ListManagedSave, f.saved}, {ListNoManagedSave, !f.saved}},
		{{ListAutostart, f.autostart}, {ListNoAutostart, !f.autostart}},
		{{ListHasSnapshot, false}, {ListNoSnapshot, true}},
		{{ListHasCheckpoint, false}, {ListNoCheckpoint, true}},
	} {
		asked, hit := false, false
		for _, c := range group {
			if flags&c.flag != 0 {
				asked = true
				hit = hit || c.is
			}
		}
		if asked && !hit {
			return false
		}
	}
	return true
}
