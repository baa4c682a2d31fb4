package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// readLogical reads what only a logical volume has: a volume of the group that it is a snapshot of.
func (r *request) readLogical(root *xmltree.Node) error {
	r.format = formatRaw
	target, backing := root.Child("target"), root.Child("backingStore")
	if f := target.Child("format"); f.Attr("type") != "" && f.Attr("type") != formatRaw {
		return unsupported(f, "volumes of format '%s' are not supported in a pool of type 'logical'; there is raw", f.Attr("type"))
	}
	for _, word := range []string{"compat", "clusterSize", "features"} {
		if e := target.Child(word); e != nil {
			return unsupported(e, "<%s> is not supported in a pool of type 'logical'", word)
		}
	}
	if !groupName.MatchString(r.name) || r.name == "." || r.name == ".." || reservedName(r.name) {
		return malformed(root.Child("name"), "'%s' cannot be the name of a logical volume: LVM allows letters, digits and + _ . -, and has names of its own", r.name)
	}
	path := backing.Child("path").Trimmed()
	if path == "" {
		return nil
	}
	if !filepath.IsAbs(path) {
		return malformed(backing, "the volume '%s' that '%s' is to be a snapshot of is not named by an absolute path", path, r.name)
	}
	r.snapshotOf = filepath.Clean(path)
	return nil
}

// reservedName reports whether LVM keeps a name for itself (lvm(8), VALID NAMES).
func reservedName(name string) bool {
	for _, prefix := range []string{"snapshot", "pvmove"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	for _, part := range []string{"_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_mimage", "_mlog", "_rimage", "_rmeta", "_tdata", "_tmeta",
		"_vdata", "_vorigin", "_imeta", "_iorig", "_pmspare"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// inspect describes a volume: its device says how large it is.
func (p *logicalPool) inspect(v Volume) (image, error) {
	node := v.node()
	im := image{format: formatRaw}
	if err := syscall.Stat(node, &im.stat); err != nil {
		return im, &os.PathError{Op: "stat", Path: node, Err: err}
	}
	lv := p.cached()[v.Name]
	im.stat.Mode = im.stat.Mode&^syscall.S_IFMT | syscall.S_IFBLK // a test's device is a file
	im.capacity, im.extents = lv.size, lv.extents
	if f, err := openData(node, os.O_RDONLY); err == nil {
		if size, _, err := extent(f); err == nil {
			im.capacity = uint64(size)
		}
		f.Close()
	}
	im.physical, im.allocation = im.capacity, im.capacity
	if lv.origin != "" {
		im.allocation = 0
		for _, e := range lv.extents {
			for _, r := range e.ranges {
				im.allocation += r[1] - r[0]
			}
		}
		if !lv.sparse() {
			im.backing = p.path(lv.origin)
		}
	}
	return im, nil
}

// create makes a logical volume. One that is filled has another name until it is. A client that leaves, which ends ctx, ends
// the filling, and none of LVM's programs.
func (p *logicalPool) create(ctx context.Context, v Volume, r *request, fill func(*os.File) error) error {
	programs, cancel := p.m.program()
	defer cancel()
	if r.capacity == 0 {
		return failure(virterr.InvalidArg, "a logical volume cannot have a capacity of 0 bytes")
	}
	if fill != nil && r.snapshotOf != "" {
		return failure(virterr.ConfigUnsupported, "a copy cannot be a snapshot of '%s' as well", r.snapshotOf)
	}
	name := r.name
	if fill != nil {
		name = partialPrefix + uuid.NewString()
		whole := *r
		whole.allocation = r.capacity // all of it is written
		r = &whole
	}
	args, err := p.createArgs(programs, name, r)
	if err != nil {
		return err
	}
	if err := p.lvm().run(programs, "lvcreate", args...); err != nil {
		return err
	}
	err = p.finish(ctx, name, v, r, fill)
	if err == nil && fill != nil {
		renaming, cancel := p.m.program() // filling can take longer than programs may
		defer cancel()
		err = p.lvm().run(renaming, "lvrename", p.group(), name, r.name)
	}
	after, cancel := p.m.program()
	defer cancel()
	if err != nil {
		return errors.Join(err, p.lvm().run(after, "lvremove", "--force", p.group()+"/"+name))
	}
	return p.refresh(after)
}

// createArgs are lvcreate's arguments. Less allocation than capacity makes what libvirt makes of it: a snapshot of nothing,
// which has room for that much to be written.
func (p *logicalPool) createArgs(ctx context.Context, name string, r *request) ([]string, error) {
	bytes := func(n uint64) string { return fmt.Sprintf("%db", (max(n, 1)+511)&^511) }
	args := []string{"--yes", "--name", name}
	switch {
	case r.snapshotOf != "":
		origin, err := p.originOf(ctx, r.snapshotOf)
		if err != nil {
			return nil, err
		}
		return append(args, "--size", bytes(r.allocation), "--snapshot", p.group()+"/"+origin), nil
	case r.allocation < r.capacity:
		return append(args, "--type", "snapshot", "--virtualsize", bytes(r.capacity), "--size", bytes(r.allocation), p.group()), nil
	}
	// The first sectors of what is new may hold what another guest wrote there: no kernel shall take that for a file system.
	return append(args, "--zero", "y", "--wipesignatures", "y", "--size", bytes(r.capacity), p.group()), nil
}

// originOf finds the volume that a snapshot is to be of.
func (p *logicalPool) originOf(ctx context.Context, path string) (string, error) {
	name := filepath.Base(path)
	if f, ok := p.volume(ctx, name); !ok || f.path != path {
		return "", failure(virterr.NoStorageVol, "no storage vol with matching path '%s': a snapshot is of a volume in the same pool", path)
	}
	return name, nil
}

// finish gives a new volume its owner and mode, and its data.
func (p *logicalPool) finish(ctx context.Context, name string, v Volume, r *request, fill func(*os.File) error) error {
	if fill == nil && r.perms == noPermissions() {
		return nil
	}
	f, err := openData(p.m.host.Path(p.path(name)), os.O_RDWR)
	if err != nil {
		return failure(virterr.SystemError, "cannot open '%s': %w", v.Path, virterr.Strerror(err))
	}
	defer f.Close()
	if err := chown(f, v.Path, r.perms, r.perms.mode); err != nil {
		return err
	}
	if fill == nil {
		return nil
	}
	size, _, err := extent(f)
	if err == nil {
		err = zeroDevice(ctx, f, 0, size) // of what others left there
	}
	if err != nil {
		return failure(virterr.SystemError, "cannot write '%s': %w", v.Path, virterr.Strerror(err))
	}
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return failure(virterr.SystemError, "cannot sync data to '%s': %w", v.Path, virterr.Strerror(err))
	}
	return nil
}

// remove removes a volume, and no snapshot of it.
func (p *logicalPool) remove(_ context.Context, v Volume) error {
	ctx, cancel := p.m.program()
	defer cancel()
	if err := p.refresh(ctx); err != nil {
		return err
	}
	for _, other := range p.cached() {
		if other.origin == v.Name {
			return failure(virterr.OperationInvalid, "volume '%s' has a snapshot, '%s', which would go with it: delete that first", v.Name, other.name)
		}
	}
	if err := p.lvm().run(ctx, "lvremove", "--force", p.group()+"/"+v.Name); err != nil {
		return err
	}
	return p.refresh(ctx)
}

// resize changes a volume's size, in whole extents of the group.
func (p *logicalPool) resize(_ context.Context, v Volume, size uint64, _ bool) error {
	ctx, cancel := p.m.program()
	defer cancel()
	if size == 0 {
		return failure(virterr.InvalidArg, "a logical volume cannot have a capacity of 0 bytes")
	}
	lv := p.cached()[v.Name]
	if lv.origin != "" {
		return failure(virterr.OperationUnsupported, "changing the capacity of '%s', which is a snapshot, is not supported", v.Name)
	}
	if err := p.lvm().run(ctx, "lvresize", "--yes", "--size", fmt.Sprintf("%db", (size+511)&^511), p.group()+"/"+v.Name); err != nil {
		return err
	}
	return p.refresh(ctx)
}
