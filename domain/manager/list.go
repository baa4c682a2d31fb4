package manager

import (
	"cmp"
	"slices"
	"strings"
)

// List returns the domains that match flags, running ones first in order of their numbers, then the others by name. The
// zero flags match all.
func (m *Manager) List(flags ListFlags) []*Domain {
	var list []*Domain
	m.each(flags, func(d *Domain, _ Ref) { list = append(list, d) })
	return list
}

// Refs returns what clients call the domains that List returns.
func (m *Manager) Refs(flags ListFlags) []Ref {
	refs := make([]Ref, 0, len(m.byNames()))
	m.each(flags, func(_ *Domain, ref Ref) { refs = append(refs, ref) })
	return refs
}

// each calls f with the domains that match flags, in List's order.
func (m *Manager) each(flags ListFlags, f func(*Domain, Ref)) {
	type row struct {
		d   *Domain
		ref Ref
	}
	var active, others []row
	all := m.byNames()
	for _, d := range all {
		ref, facts := d.listed(flags)
		switch {
		case !flags.match(facts):
		case ref.ID >= 0:
			active = append(active, row{d, ref})
		default:
			if others == nil {
				others = make([]row, 0, len(all))
			}
			others = append(others, row{d, ref})
		}
	}
	slices.SortFunc(active, func(a, b row) int { return cmp.Compare(a.ref.ID, b.ref.ID) })
	for _, rows := range [][]row{active, others} {
		for _, r := range rows {
			f(r.d, r.ref)
		}
	}
}

// byNames returns every visible domain in order of names. The slice is shared: nobody changes it.
func (m *Manager) byNames() []*Domain {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.order == nil {
		m.order = make([]*Domain, 0, len(m.byUUID))
		for _, d := range m.byUUID {
			if d.visible {
				m.order = append(m.order, d)
			}
		}
		slices.SortFunc(m.order, func(a, b *Domain) int { return strings.Compare(a.Name(), b.Name()) })
	}
	return m.order
}

// listed returns what the domain is called and which of the flags are true of it. Autostart is looked up only when flags
// ask for it.
func (d *Domain) listed(flags ListFlags) (Ref, ListFlags) {
	facts := ListNoSnapshot | ListNoCheckpoint
	if flags&(ListAutostart|ListNoAutostart) != 0 {
		facts |= either(d.entry().Autostart, ListAutostart, ListNoAutostart)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	facts |= either(d.state.active(), ListActive, ListInactive) | either(d.persistent, ListPersistent, ListTransient) |
		either(d.saved, ListManagedSave, ListNoManagedSave)
	switch d.state {
	case Running:
		facts |= ListRunning
	case Paused:
		facts |= ListPaused
	case ShutOff:
		facts |= ListShutOff
	default:
		facts |= ListOther
	}
	return d.ref(), facts
}

func either(is bool, yes, no ListFlags) ListFlags {
	if is {
		return yes
	}
	return no
}

// listGroups are the flags that are alternatives to each other.
var listGroups = [...]ListFlags{
	ListActive | ListInactive,
	ListPersistent | ListTransient,
	ListRunning | ListPaused | ListShutOff | ListOther,
	ListManagedSave | ListNoManagedSave,
	ListAutostart | ListNoAutostart,
	ListHasSnapshot | ListNoSnapshot,
	ListHasCheckpoint | ListNoCheckpoint,
}

// match tells whether a domain of which facts are true is wanted.
func (flags ListFlags) match(facts ListFlags) bool {
	for _, group := range listGroups {
		if asked := flags & group; asked != 0 && asked&facts == 0 {
			return false
		}
	}
	return true
}
