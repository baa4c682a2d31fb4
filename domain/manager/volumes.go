package manager

import (
	"slices"

	"virtd/domain"
	"virtd/virterr"
)

// Volumes is what domains need of the storage pools. *storage.Manager is the real one.
type Volumes interface {
	// Source finds a volume of an active pool on the host.
	Source(pool, volume string) (domain.VolumeSource, error)
	// Given notes that a guest is about to get the image at path in that format, and may write to it: a guest can write the
	// header of any other format into a raw one.
	Given(path, format string)
}

// resolve finds out what the volumes are that r's disks name, all of them anew.
func (d *Domain) resolve(r *run) error {
	d.mu.Lock()
	live := r.live
	d.mu.Unlock()
	live, err := d.m.withVolumes(live, func(domain.VolumeDisk) bool { return true })
	if err != nil {
		return err
	}
	d.m.given(live.Disks())
	d.mu.Lock()
	r.live = live
	d.mu.Unlock()
	return nil
}

// resolveNew is resolve for the device that is about to be attached.
func (d *Domain) resolveNew(live *domain.Definition, alias string) (*domain.Definition, error) {
	live, err := d.m.withVolumes(live, func(v domain.VolumeDisk) bool { return v.Alias == alias })
	if err == nil {
		d.m.given(slices.DeleteFunc(live.Disks(), func(disk domain.Disk) bool { return disk.Alias != alias }))
	}
	return live, err
}

func (m *Manager) withVolumes(live *domain.Definition, wanted func(domain.VolumeDisk) bool) (*domain.Definition, error) {
	found := map[string]domain.VolumeSource{}
	for _, v := range live.Volumes() {
		if !wanted(v) {
			continue
		}
		source, err := m.volumeSource(v)
		if err != nil {
			return nil, err
		}
		found[v.Alias] = source
	}
	if len(found) == 0 {
		return live, nil
	}
	return live.SetVolumes(found)
}

// given tells the storage pools which images a guest gets.
func (m *Manager) given(disks []domain.Disk) {
	if m.cfg.Volumes == nil {
		return
	}
	for _, disk := range disks {
		if !disk.ReadOnly && disk.Path != "" {
			m.cfg.Volumes.Given(disk.Path, disk.Format)
		}
	}
}

func (m *Manager) volumeSource(v domain.VolumeDisk) (domain.VolumeSource, error) {
	if m.cfg.Volumes == nil {
		return domain.VolumeSource{}, virterr.NewFrom(virterr.FromStorage, virterr.NoStoragePool, "no storage pool with matching name '%s'", v.Pool)
	}
	return m.cfg.Volumes.Source(v.Pool, v.Volume)
}

// StoredDisk finds a disk of the domain's configuration by its target or by the path of its image.
func (d *Domain) StoredDisk(name string) (domain.Disk, error) {
	def, err := d.definition()
	if err != nil {
		return domain.Disk{}, err
	}
	for _, disk := range def.Disks() {
		if disk.Volume != nil {
			source, err := d.m.volumeSource(*disk.Volume)
			if err != nil && disk.Target == name {
				return disk, err
			}
			disk.Path = source.Path
		}
		if disk.Path != "" && (disk.Target == name || disk.Path == name) {
			return disk, nil
		}
	}
	return domain.Disk{}, virterr.New(virterr.InvalidArg, "invalid path %s not assigned to domain", name)
}
