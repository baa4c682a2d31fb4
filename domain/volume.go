package domain

import "virtd/domain/xmltree"

// typeVolume is the type of a disk whose source names a volume of a storage pool.
const typeVolume = "volume"

// VolumeDisk is a disk of a domain that is a volume of a storage pool.
type VolumeDisk struct {
	Alias  string // virtio-disk0, of a running domain
	Pool   string // its name
	Volume string // its name
}

// VolumeSource is what a volume is on the host.
type VolumeSource struct {
	Path  string
	Block bool // a block device, else a file
}

// Volumes returns the disks that are volumes.
func (d *Definition) Volumes() []VolumeDisk {
	var out []VolumeDisk
	for _, disk := range d.doc.Root.Child("devices").All("disk") {
		if disk.Attr("type") == typeVolume {
			source := disk.Child("source")
			out = append(out, VolumeDisk{disk.Child("alias").Attr("name"), source.Attr("pool"), source.Attr("volume")})
		}
	}
	return out
}

// SetVolumes returns the live definition with what the volumes of its disks are, by alias. The paths are what the engine is
// given and what Record keeps; XML shows pool and volume only, as libvirt does.
func (d *Definition) SetVolumes(volumes map[string]VolumeSource) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		for _, disk := range root.Child("devices").All("disk") {
			v, ok := volumes[disk.Child("alias").Attr("name")]
			if !ok || disk.Attr("type") != typeVolume {
				continue
			}
			stripVolume(disk)
			attr := "file"
			if v.Block {
				attr = "dev"
			}
			disk.Ensure("source").SetAttr(attr, v.Path)
		}
		return nil
	})
}

// stripVolume removes what SetVolumes has added.
func stripVolume(disk *xmltree.Node) {
	if source := disk.Child("source"); disk.Attr("type") == typeVolume && source != nil {
		source.RemoveAttr("file")
		source.RemoveAttr("dev")
	}
}

// Disk is what a disk is called by and made of.
type Disk struct {
	Alias  string // "" unless the domain runs
	Target string // vda
	Path   string // of the image or block device; "" of a volume that was not looked up
	Format string // raw, qcow2
	Volume *VolumeDisk

	ReadOnly bool
}

// Disks returns the disks in the order of the document.
func (d *Definition) Disks() []Disk {
	var out []Disk
	for _, n := range d.doc.Root.Child("devices").All("disk") {
		disk := Disk{
			Alias: n.Child("alias").Attr("name"), Target: n.Child("target").Attr("dev"), Path: DiskPath(n), Format: n.Child("driver").Attr("type"),
			ReadOnly: n.Child("readonly") != nil,
		}
		if source := n.Child("source"); n.Attr("type") == typeVolume {
			disk.Volume = &VolumeDisk{disk.Alias, source.Attr("pool"), source.Attr("volume")}
		}
		out = append(out, disk)
	}
	return out
}
