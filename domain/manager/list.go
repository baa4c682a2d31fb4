package manager

import (
	"cmp"
	"slices"
	"strings"
)

// List returns the domains that match flags, running ones first in order of their numbers, then the others by name. The
// zero flags match all.
func (m *Manager) List(flags ListFlags) []*Domain {
	return ListAs(m, flags, func(d *Domain, _ Ref) *Domain { return d })
}

// ListAs returns what as makes of each domain of List, and of what clients call it.
func ListAs[T any](m *Manager, flags ListFlags, as func(*Domain, Ref) T) []T {
	type row struct {
		d  *Domain
		id int
	}
	var active []row
	all := m.byNames()
	off := make([]*Domain, 0, len(all))
	for _, d := range all {
		id, facts := d.listed(flags)
		switch {
		case !flags.match(facts):
		case id >= 0:
			active = append(active, row{d, id})
		default:
			off = append(off, d)
		}
	}
	slices.SortFunc(active, func(a, b row) int { return cmp.Compare(a.id, b.id) })
	list := make([]T, 0, len(active)+len(off))
	for _, r := range active {
		list = append(list, as(r.d, Ref{Name: r.d.Name(), UUID: r.d.uuid, ID: r.id}))
	}
	for _, d := range off {
		list = append(list, as(d, Ref{Name: d.Name(), UUID: d.uuid, ID: -1}))
	}
	return list
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

// listed returns the domain's number and which of the flags are true of it. Autostart is looked up only when flags ask for
// it.
func (d *Domain) listed(flags ListFlags) (id int, facts ListFlags) {
	facts = ListNoSnapshot | ListNoCheckpoint
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
	return d.id, facts
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
