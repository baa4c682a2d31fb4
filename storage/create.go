package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"

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

// CreateVolume makes a raw volume of zeros. What its XML says is allocated is reserved on disk when it returns.
func (p *Pool) CreateVolume(ctx context.Context, text string, flags CreateFlags) (Volume, error) {
	if flags&CreateReflink != 0 {
		return Volume{}, failure(virterr.InvalidArg, "unsupported flags (0x%x) in function virStorageVolCreateXML", uint32(flags))
	}
	if err := flags.check("virStorageVolCreateXML"); err != nil {
		return Volume{}, err
	}
	r, err := parseVolume(text, nil)
	if err != nil {
		return Volume{}, err
	}
	return p.create(r, func(f *os.File) error {
		if err := extend(f, r.capacity); err != nil {
			return err
		}
		return reserve(ctx, f, r.allocation)
	})
}

// CloneVolume makes a raw volume that is a copy of another one, which may be in another pool.
func (p *Pool) CloneVolume(ctx context.Context, text string, from Volume, flags CreateFlags) (Volume, error) {
	if err := flags.check("virStorageVolCreateXMLFrom"); err != nil {
		return Volume{}, err
	}
	release, err := from.hold()
	if err != nil {
		return Volume{}, err
	}
	defer release()
	src, err := from.inspect()
	if err != nil {
		return Volume{}, err
	}
	if src.format != "raw" {
		return Volume{}, failure(virterr.ConfigUnsupported, "volume '%s' is %s: copying is supported for raw volumes only so far",
			from.Name, src.format)
	}
	r, err := parseVolume(text, &src)
	if err != nil {
		return Volume{}, err
	}
	in, err := openRegular(from.Path, os.O_RDONLY)
	if err != nil {
		return Volume{}, failure(virterr.SystemError, "cannot open '%s': %w", from.Path, cause(err))
	}
	defer in.Close()
	return p.create(r, func(f *os.File) error {
		if flags&CreateReflink != 0 {
			if err := unix.IoctlFileClone(int(f.Fd()), int(in.Fd())); err != nil {
				return failure(virterr.SystemError, "failed to clone files from '%s': the pool's filesystem must be able to "+
					"share blocks, such as btrfs or xfs, and hold both: %w", from.Path, cause(err))
			}
			return extend(f, r.capacity)
		}
		if err := extend(f, r.capacity); err != nil {
			return err
		}
		if r.allocation >= src.capacity { // else the copy has holes where the original has
			if err := reserve(ctx, f, r.allocation); err != nil {
				return err
			}
		}
		return copyData(ctx, f, in)
	})
}

func (f CreateFlags) check(function string) error {
	if extra := f &^ (CreatePreallocMetadata | CreateReflink | CreateValidate); extra != 0 {
		return failure(virterr.InvalidArg, "unsupported flags (0x%x) in function %s", uint32(extra), function)
	}
	if f&CreatePreallocMetadata != 0 {
		return failure(virterr.ConfigUnsupported, "metadata preallocation is not supported for raw volumes; give an allocation instead")
	}
	return nil
}

// create makes a volume's file, has it filled, and makes it durable. A file that cannot be finished is removed.
func (p *Pool) create(r request, fill func(*os.File) error) (Volume, error) {
	v, done, err := p.begin(r.name)
	if err != nil {
		return v, err
	}
	defer done()
	// With O_EXCL the name is not followed if it is a link.
	f, err := os.OpenFile(v.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) && v.exists() {
		return v, volumeExists(r.name)
	}
	if err != nil {
		return v, failure(virterr.SystemError, "cannot create path '%s': %w", v.Path, cause(err))
	}
	err = fill(f)
	if err == nil {
		err = own(f, v.Path, r.perms)
	}
	if err == nil {
		if serr := f.Sync(); serr != nil {
			err = failure(virterr.SystemError, "cannot sync data to file '%s': %w", v.Path, cause(serr))
		}
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = failure(virterr.SystemError, "cannot close file '%s': %w", v.Path, cause(cerr))
	}
	if err == nil {
		err = syncDir(dirOf(v.Path))
	}
	if err != nil {
		_ = os.Remove(v.Path) // ours: O_EXCL made it
		return v, err
	}
	return v, nil
}

// begin notes that a volume of that name is being made.
func (p *Pool) begin(name string) (v Volume, done func(), err error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeActive(); err != nil {
		return v, nil, err
	}
	v = p.volume(p.def, name)
	if p.creating[name] {
		return v, nil, volumeExists(name)
	}
	if p.creating == nil {
		p.creating = map[string]bool{}
	}
	p.creating[name] = true
	p.jobs++
	return v, func() {
		p.m.mu.Lock()
		defer p.m.mu.Unlock()
		delete(p.creating, name)
		p.jobs--
	}, nil
}

func volumeExists(name string) error {
	return failure(virterr.StorageVolExist, "storage volume '%s' exists already", name)
}

// own gives the file its owner and mode.
func own(f *os.File, path string, perms permissions) error {
	if perms.owner >= 0 || perms.group >= 0 {
		if err := f.Chown(perms.owner, perms.group); err != nil {
			return failure(virterr.SystemError, "cannot chown '%s' to (%d, %d): %w", path, perms.owner, perms.group, cause(err))
		}
	}
	mode := perms.mode
	if mode < 0 {
		mode = defaultVolumeMode
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(mode)); err != nil {
		return failure(virterr.SystemError, "cannot set mode of '%s' to %04o: %w", path, mode, cause(err))
	}
	return nil
}
