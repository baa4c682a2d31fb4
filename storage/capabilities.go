package storage

import (
	"virtd/domain/xmltree"
)

// absentKinds are libvirt's types of pools that there are none of.
var absentKinds = []string{"disk", "iscsi", "iscsi-direct", "scsi", "mpath", "rbd", "gluster", "zfs", "vstorage"}

// Capabilities returns the document about pool types, in libvirt's form: what there is on this host. Logical pools need LVM's
// programs.
func (m *Manager) Capabilities() string {
	root := xmltree.New("storagepoolCapabilities")
	images := []string{formatRaw, formatQcow2}
	root.Append(poolCapability(kindDir, true, nil, images))
	root.Append(poolCapability(kindFS, true, fsFormats, images))
	root.Append(poolCapability("netfs", false, nil, nil))
	root.Append(poolCapability(kindLogical, m.host.Has("lvs"), []string{formatLVM2}, nil))
	for _, kind := range absentKinds {
		root.Append(poolCapability(kind, false, nil, nil))
	}
	return root.String()
}

// poolCapability tells of one type: which formats sources and volumes can have, the default first.
func poolCapability(kind string, supported bool, sources, volumes []string) *xmltree.Node {
	word := map[bool]string{true: "yes", false: "no"}
	n := xmltree.New("pool", "type", kind, "supported", word[supported])
	if !supported {
		return n
	}
	for _, o := range []struct {
		element, name string
		values        []string
	}{{"poolOptions", "sourceFormatType", sources}, {"volOptions", "targetFormatType", volumes}} {
		if len(o.values) == 0 {
			continue
		}
		options := n.Append(xmltree.New(o.element))
		options.Append(xmltree.New("defaultFormat", "type", o.values[0]))
		list := options.Append(xmltree.New("enum", "name", o.name))
		for _, v := range o.values {
			list.Append(xmltree.NewText("value", v))
		}
	}
	return n
}
