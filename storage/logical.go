package storage

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"virtd/virterr"
)

// logicalPool is a pool of type logical: an LVM volume group, whose active logical volumes are the volumes.
type logicalPool struct {
	d *definition
	m *Manager

	// What lvs said last. Lists ask it again; what is asked of one volume is answered from here, as with libvirt.
	mu    sync.Mutex
	known map[string]logicalVolume // nil: it was not asked yet
}

func (p *logicalPool) lvm() lvm { return lvm{p.m.host} }

func (p *logicalPool) group() string { return p.d.source.name }

func (p *logicalPool) exclusive() bool { return true }

// build makes a volume group of the source devices.
func (p *logicalPool) build(ctx context.Context, flags BuildFlags) error {
	if len(p.d.source.devices) == 0 {
		return failure(virterr.InvalidArg, "cannot make volume group '%s': the pool's <source> names no <device>", p.group())
	}
	if !p.m.host.Has("vgcreate") {
		return failure(virterr.OperationUnsupported, "cannot find 'vgcreate' in path: install package lvm2")
	}
	var devices []*device
	defer func() {
		for _, dev := range devices {
			dev.Close()
		}
	}()
	for _, path := range p.d.source.devices { // all are looked at before the first is changed
		dev, err := p.m.openDevice(path, os.O_RDWR)
		if err != nil {
			return err
		}
		devices = append(devices, dev)
		if flags == BuildDestroy {
			continue
		}
		if err := dev.mustBeEmpty(); err != nil {
			return err
		}
	}
	args := []string{"--yes", p.group()}
	for _, dev := range devices {
		if flags == BuildDestroy {
			if err := dev.erase(); err != nil {
				return err
			}
		}
		dev.Close() // LVM wants it for itself
		args = append(args, p.m.host.Path(dev.path))
	}
	return p.lvm().run(ctx, "vgcreate", args...) // which makes physical volumes of the devices
}

// start activates the volumes, and removes what a virtd that was killed left of those it made.
func (p *logicalPool) start(ctx context.Context) error {
	if err := p.matchesSource(ctx); err != nil {
		return err
	}
	if err := p.lvm().run(ctx, "vgchange", "--activate", "y", p.group()); err != nil {
		return err
	}
	if err := p.refresh(ctx); err != nil {
		return err
	}
	return p.removePartials(ctx)
}

// matchesSource fails when there is no such group, or when it is made of other devices than the definition says.
func (p *logicalPool) matchesSource(ctx context.Context) error {
	list, err := p.lvm().physicals(ctx)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(v physical) bool { return v.group != p.group() })
	if len(list) == 0 {
		return failure(virterr.OperationFailed, "cannot find logical volume group name '%s' (make it with pool-build)", p.group())
	}
	if len(p.d.source.devices) == 0 {
		return nil
	}
	for _, path := range p.d.source.devices {
		real := canonical(p.m.host.Path(path))
		if slices.ContainsFunc(list, func(v physical) bool { return v.path == path || canonical(p.m.host.Path(v.path)) == real }) {
			return nil
		}
	}
	return failure(virterr.OperationFailed, "cannot find any matching source devices for logical volume group '%s'", p.group())
}

// removePartials removes volumes that were never finished.
func (p *logicalPool) removePartials(ctx context.Context) error {
	for name := range p.cached() {
		if !strings.HasPrefix(name, partialPrefix) {
			continue
		}
		if err := p.lvm().run(ctx, "lvremove", "--force", p.group()+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

// running asks for the group only: which of its volumes are active, lists say.
func (p *logicalPool) running(ctx context.Context) (bool, error) {
	if err := p.refresh(ctx); err != nil {
		if virterr.Is(err, virterr.OperationUnsupported) || ctx.Err() != nil {
			return false, err // nothing is known
		}
		return false, nil
	}
	return true, p.removePartials(ctx)
}

// stop deactivates the volumes. LVM does that with none of them when one is open.
func (p *logicalPool) stop(ctx context.Context) error {
	return p.lvm().run(ctx, "vgchange", "--activate", "n", p.group())
}

// delete removes the group, if it has no volumes, and makes plain devices of those it was on.
func (p *logicalPool) delete(ctx context.Context) error {
	list, err := p.lvm().volumes(ctx, p.group())
	if err != nil {
		return err
	}
	if len(list) > 0 {
		return failure(virterr.OperationInvalid, "volume group '%s' has %d volumes: delete them first, or undefine the pool and leave the group", p.group(), len(list))
	}
	physicals, err := p.lvm().physicals(ctx)
	if err != nil {
		return err
	}
	if err := p.lvm().run(ctx, "vgremove", p.group()); err != nil {
		return err
	}
	args := []string{}
	for _, v := range physicals {
		if v.group == p.group() {
			args = append(args, v.path)
		}
	}
	if len(args) == 0 {
		return nil
	}
	return p.lvm().run(ctx, "pvremove", args...)
}

func (p *logicalPool) refresh(ctx context.Context) error {
	list, err := p.lvm().volumes(ctx, p.group())
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = list
	return nil
}

// cached returns what lvs said last. It is not to be changed.
func (p *logicalPool) cached() map[string]logicalVolume {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known
}

func (p *logicalPool) sizes(ctx context.Context) (poolSizes, error) {
	size, free, err := p.lvm().group(ctx, p.group())
	return poolSizes{capacity: size, allocation: size - free, available: free}, err
}

func (p *logicalPool) permissions() permissions { return p.d.perms }

func (p *logicalPool) volumes(ctx context.Context) ([]found, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	var out []found
	for name, v := range p.cached() {
		if v.visible() && !strings.HasPrefix(name, partialPrefix) && nameError(name) == nil {
			out = append(out, p.found(v))
		}
	}
	return out, nil
}

// volume finds a volume that lvs told of, or asks it again.
func (p *logicalPool) volume(ctx context.Context, name string) (found, bool) {
	v, ok := p.cached()[name]
	if _, err := os.Stat(p.m.host.Path(p.path(name))); !ok && err == nil || ok && err != nil {
		if err := p.refresh(ctx); err != nil {
			return found{}, false
		}
		v, ok = p.cached()[name]
	}
	return p.found(v), ok && v.visible() && !strings.HasPrefix(name, partialPrefix)
}

func (p *logicalPool) path(name string) string { return filepath.Join(p.d.target, name) }

func (p *logicalPool) found(v logicalVolume) found {
	return found{name: v.name, path: p.path(v.name), key: v.uuid}
}
