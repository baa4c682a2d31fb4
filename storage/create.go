package storage

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// CreateFlags say how a volume is made (virStorageVolCreateFlags).
type CreateFlags uint32

// The flags. Documents are always checked, so CreateValidate changes nothing.
const (
	CreatePreallocMetadata CreateFlags = 1
	CreateReflink          CreateFlags = 2
	CreateValidate         CreateFlags = 4
)

// CreateVolume makes a volume of zeros, or one that shows its backing file. What its XML says of a raw volume is allocated
// is reserved on disk when it returns.
func (p *Pool) CreateVolume(ctx context.Context, text string, flags CreateFlags) (Volume, error) {
	if flags&CreateReflink != 0 {
		return Volume{}, failure(virterr.InvalidArg, "unsupported flags (0x%x) in function virStorageVolCreateXML", uint32(flags))
	}
	r, err := parseVolume(p.kind(), text, nil)
	if err == nil {
		err = flags.check("virStorageVolCreateXML", r.format)
	}
	if err != nil {
		return Volume{}, err
	}
	if r.format != formatQcow2 {
		return p.create(ctx, &r, nil)
	}
	return p.create(ctx, &r, func(f *os.File) error { return r.makeQcow2(f, flags) })
}

// CloneVolume makes a volume that is a copy of another one, which may be in another pool and of another format.
func (p *Pool) CloneVolume(ctx context.Context, text string, from Volume, flags CreateFlags) (Volume, error) {
	release, err := from.hold()
	if err != nil {
		return Volume{}, err
	}
	defer release()
	src, err := from.inspect()
	if err != nil {
		return Volume{}, err
	}
	r, err := parseVolume(p.kind(), text, &src)
	if err == nil {
		err = flags.check("virStorageVolCreateXMLFrom", r.format)
	}
	if err != nil {
		return Volume{}, err
	}
	if src.format != formatRaw || r.format != formatRaw {
		return p.convertVolume(ctx, r, from, src, flags)
	}
	in, err := openData(from.node(), os.O_RDONLY)
	if err != nil {
		return Volume{}, failure(virterr.SystemError, "cannot open '%s': %w", from.Path, virterr.Strerror(err))
	}
	defer in.Close()
	return p.create(ctx, &r, func(f *os.File) error {
		if flags&CreateReflink != 0 {
			if err := unix.IoctlFileClone(int(f.Fd()), int(in.Fd())); err != nil {
				return failure(virterr.SystemError, "failed to clone files from '%s': the pool's filesystem must be able to "+
					"share blocks, such as btrfs or xfs, and hold both: %w", from.Path, virterr.Strerror(err))
			}
			return extend(f, r.capacity)
		}
		to := r
		if r.allocation < src.capacity {
			to.allocation = 0 // the copy has holes where the original has
		}
		if err := blank(ctx, f, &to); err != nil {
			return err
		}
		return copyData(ctx, f, in)
	})
}

// convertVolume is CloneVolume where not both are raw.
func (p *Pool) convertVolume(ctx context.Context, r request, from Volume, src image, flags CreateFlags) (Volume, error) {
	if flags&CreateReflink != 0 {
		return Volume{}, failure(virterr.ConfigUnsupported, "volume '%s' is %s and '%s' shall be %s: blocks can be shared between raw volumes only",
			from.Name, src.format, r.name, r.format)
	}
	if r.backing != "" && r.backing != src.backing {
		return Volume{}, failure(virterr.InternalError, "a different backing store cannot be specified.")
	}
	c, err := openChain(from.node(), src.format, false, p.m.permitBacking)
	if err != nil {
		return Volume{}, err
	}
	defer c.close()
	return p.create(ctx, &r, func(f *os.File) error { return r.convert(ctx, f, c, flags) })
}

func (f CreateFlags) check(function, format string) error {
	if extra := f &^ (CreatePreallocMetadata | CreateReflink | CreateValidate); extra != 0 {
		return failure(virterr.InvalidArg, "unsupported flags (0x%x) in function %s", uint32(extra), function)
	}
	if f&CreatePreallocMetadata != 0 && format == formatRaw {
		return failure(virterr.ConfigUnsupported, "metadata preallocation is not supported for raw volumes; give an allocation instead")
	}
	return nil
}

// create has the pool's backend make a volume.
func (p *Pool) create(ctx context.Context, r *request, fill func(*os.File) error) (Volume, error) {
	v, b, done, err := p.begin(r.name)
	if err != nil {
		return v, err
	}
	defer done()
	if _, exists := b.volume(ctx, r.name); exists {
		return v, volumeExists(r.name)
	}
	if err := r.completeBacking(v.Path); err != nil {
		return v, err
	}
	if err := b.create(ctx, v, r, fill); err != nil {
		return v, err
	}
	f, ok := b.volume(ctx, r.name)
	if !ok {
		return v, noVolume(r.name)
	}
	v.Key = f.key
	return v, nil
}

// begin notes that a volume of that name is being made.
func (p *Pool) begin(name string) (v Volume, b backend, done func(), err error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeActive(); err != nil {
		return v, nil, nil, err
	}
	path := filepath.Join(p.def.target, name)
	v = p.named(p.def, p.backend, found{name: name, path: path, key: path})
	if p.creating[name] {
		return v, nil, nil, volumeExists(name)
	}
	if p.creating == nil {
		p.creating = map[string]bool{}
	}
	p.creating[name] = true
	p.jobs++
	return v, p.backend, func() {
		p.m.mu.Lock()
		defer p.m.mu.Unlock()
		delete(p.creating, name)
		p.jobs--
	}, nil
}

func volumeExists(name string) error {
	return failure(virterr.StorageVolExist, "storage volume '%s' exists already", name)
}
