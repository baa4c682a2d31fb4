package manager

import (
	"context"

	"virtd/domain"
	"virtd/virterr"
)

// IOTuneChange sets limits of a disk: those of Values that are Named, by libvirt's names, in the caller's order.
type IOTuneChange struct {
	Values domain.IOTune
	Named  []string
}

// IOTune returns the limits of the disk that is named by target or image.
func (d *Domain) IOTune(disk string, flags Affect) (domain.IOTune, error) {
	def, _, err := d.Affected(flags & affectBoth)
	if err != nil {
		return domain.IOTune{}, err
	}
	t, err := def.DiskIOTune(disk)
	if err == nil && t == nil {
		err = virterr.New(virterr.InvalidArg, "disk '%s' was not found in the domain config", disk)
	}
	if err != nil {
		return domain.IOTune{}, err
	}
	return *t, nil
}

// SetIOTune changes the limits of a disk, which is named by target or image, and of all disks of the group that it has then.
// Who joins a group and names no limits gets the group's.
func (d *Domain) SetIOTune(ctx context.Context, disk string, change IOTuneChange, flags Affect) error {
	if err := checkFlags(flags, affectBoth, "qemuDomainSetBlockIoTune"); err != nil {
		return err
	}
	if err := change.Values.CheckExclusive(); err != nil {
		return err
	}
	var tune domain.IOTune
	var running *domain.Definition
	return d.change(ctx, "set-block-iotune", flags, func(def *domain.Definition) (*domain.Definition, error) {
		old, err := def.DiskIOTune(disk)
		if err == nil && old == nil {
			err = noDisk(def, disk)
		}
		if err != nil {
			return nil, err
		}
		tune = change.of(def, *old) // the running one comes last
		if err := tune.CheckChange(); err != nil {
			return nil, err
		}
		running, err = def.SetIOTune(disk, tune)
		return running, err
	}, func(ctx context.Context, r *run) error {
		found, ok := findDisk(r.live, disk)
		if !ok {
			return noDisk(running, disk)
		}
		if err := r.inst.SetIOTune(ctx, found.Alias, tune); err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if now, err := r.live.SetIOTune(disk, tune); err == nil {
			r.live = now // who hears of it can see it
		}
		d.emit(Event{Kind: EventTunable, Tunables: change.tunables(disk)})
		return nil
	})
}

// noDisk is the error for a disk that a definition does not have.
func noDisk(def *domain.Definition, disk string) error {
	if def.ID() < 0 {
		return virterr.New(virterr.InvalidArg, "missing persistent configuration for disk '%s'", disk)
	}
	return virterr.New(virterr.InvalidArg, "disk '%s' not found in domain", disk)
}

// of returns the limits that a disk of def with limits old has after the change.
func (c *IOTuneChange) of(def *domain.Definition, old domain.IOTune) domain.IOTune {
	if c.Values.Group != old.Group {
		if group := def.GroupIOTune(c.Values.Group); group != nil {
			old = *group
		}
	}
	return old.Changed(c.Values, c.Named)
}

// tunables are the parameters of the event: the disk as the caller named it, and what was set.
func (c *IOTuneChange) tunables(disk string) []Param {
	list := []Param{{"blkdeviotune.disk", disk}}
	for _, name := range c.Named {
		var value any = c.Values.Group
		if n := c.Values.Number(name); n != nil {
			value = *n
		}
		list = append(list, Param{"blkdeviotune." + name, value})
	}
	return list
}
