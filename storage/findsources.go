package storage

import (
	"slices"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// FindSources returns a document of what a pool of a type could be made of on this host.
func (m *Manager) FindSources(kind string) (string, error) {
	switch {
	case kind == kindLogical:
		return m.findGroups()
	case kind == kindDir || kind == kindFS:
		return "", failure(virterr.NoSupport, "pool type '%s' does not support source discovery", kind)
	case kind == "netfs" || slices.Contains(absentKinds, kind):
		return "", failure(virterr.ConfigUnsupported, "storage pools of type '%s' are not supported, and so no sources are looked for", kind)
	}
	return "", failure(virterr.InvalidArg, "unknown storage pool type %s", kind)
}

// findGroups lists the volume groups with the devices that they are on.
func (m *Manager) findGroups() (string, error) {
	ctx, cancel := m.program()
	defer cancel()
	list, err := lvm{m.host}.physicals(ctx)
	if err != nil {
		return "", err
	}
	root := xmltree.New("sources")
	groups := map[string]*source{}
	var names []string
	for _, v := range list {
		if v.group == "" {
			continue
		}
		if groups[v.group] == nil {
			groups[v.group] = &source{name: v.group, format: formatLVM2}
			names = append(names, v.group)
		}
		groups[v.group].devices = append(groups[v.group].devices, v.path)
	}
	for _, name := range names {
		root.Append(groups[name].xml(kindLogical))
	}
	return root.String(), nil
}
