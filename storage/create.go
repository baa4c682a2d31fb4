package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
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
	r, err := parseVolume(text, nil)
	if err == nil {
		err = flags.check("virStorageVolCreateXML", r.format)
	}
	if err != nil {
		return Volume{}, err
	}
	return p.create(&r, func(f *os.File) error {
		if r.format == formatQcow2 {
			return r.makeQcow2(f, flags)
		}
		if err := extend(f, r.capacity); err != nil {
			return err
		}
		return reserve(ctx, f, r.allocation)
	})
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
	r, err := parseVolume(text, &src)
	if err == nil {
		err = flags.check("virStorageVolCreateXMLFrom", r.format)
	}
	if err != nil {
		return Volume{}, err
	}
	if src.format != formatRaw || r.format != formatRaw {
		return p.convertVolume(ctx, r, from, src, flags)
	}
	in, err := openRegular(from.Path, os.O_RDONLY)
	if err != nil {
		return Volume{}, failure(virterr.SystemError, "cannot open '%s': %w", from.Path, virterr.Strerror(err))
	}
	defer in.Close()
	return p.create(&r, func(f *os.File) error {
		if flags&CreateReflink != 0 {
			if err := unix.IoctlFileClone(int(f.Fd()), int(in.Fd())); err != nil {
				return failure(virterr.SystemError, "failed to clone files from '%s': the pool's filesystem must be able to "+
					"share blocks, such as btrfs or xfs, and hold both: %w", from.Path, virterr.Strerror(err))
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

// convertVolume is CloneVolume where not both are raw.
func (p *Pool) convertVolume(ctx context.Context, r request, from Volume, src image, flags CreateFlags) (Volume, error) {
	if flags&CreateReflink != 0 {
		return Volume{}, failure(virterr.ConfigUnsupported, "volume '%s' is %s and '%s' shall be %s: blocks can be shared between raw volumes only",
			from.Name, src.format, r.name, r.format)
	}
	if r.backing != "" && r.backing != src.backing {
		return Volume{}, failure(virterr.InternalError, "a different backing store cannot be specified.")
	}
	c, err := openChain(from.Path, src.format, false, p.m.permitBacking)
	if err != nil {
		return Volume{}, err
	}
	defer c.close()
	return p.create(&r, func(f *os.File) error { return r.convert(ctx, f, c, flags) })
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

// create makes a volume's file, has it filled, makes it durable, and gives it its name last: whatever happens in between, no
// half volume stays.
func (p *Pool) create(r *request, fill func(*os.File) error) (Volume, error) {
	v, done, err := p.begin(r.name)
	if err != nil {
		return v, err
	}
	defer done()
	if v.exists() {
		return v, volumeExists(r.name)
	}
	if err := r.completeBacking(v.Path); err != nil {
		return v, err
	}
	f, partial, err := openPartial(v)
	if err != nil {
		return v, failure(virterr.SystemError, "cannot create path '%s': %w", v.Path, virterr.Strerror(err))
	}
	defer func() {
		f.Close()
		if partial != "" {
			_ = os.Remove(partial) // ours, or named finally by now
		}
	}()
	if err := fill(f); err != nil {
		return v, err
	}
	if err := own(f, v.Path, r.perms); err != nil {
		return v, err
	}
	if err := f.Sync(); err != nil {
		return v, failure(virterr.SystemError, "cannot sync data to file '%s': %w", v.Path, virterr.Strerror(err))
	}
	// A link, unlike a rename, replaces nothing.
	if partial == "" {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, v.Path, unix.AT_SYMLINK_FOLLOW)
	} else {
		err = unix.Renameat2(unix.AT_FDCWD, partial, unix.AT_FDCWD, v.Path, unix.RENAME_NOREPLACE)
	}
	if errors.Is(err, fs.ErrExist) && v.exists() {
		return v, volumeExists(r.name)
	}
	if err != nil {
		return v, failure(virterr.SystemError, "cannot create path '%s': %w", v.Path, virterr.Strerror(err))
	}
	return v, syncDir(dirOf(v.Path))
}

// partialPrefix begins the names of files that are being made, where the filesystem has no files without a name. They are
// no volumes, and those of a virtd that was killed are removed when their pool starts.
const partialPrefix = ".virtd-partial-"

// openPartial makes the file of a volume to be. It has no name (partial is empty) where that can be.
func openPartial(v Volume) (f *os.File, partial string, err error) {
	fd, err := unix.Open(dirOf(v.Path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), v.Path), "", nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) {
		return nil, "", err
	}
	partial = filepath.Join(dirOf(v.Path), partialPrefix+uuid.NewString())
	if fd, err = unix.Open(partial, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600); err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), v.Path), partial, nil
}

// removePartials removes what a virtd that was killed left of volumes it made in a directory. Nobody makes any there now.
func removePartials(dir string) error {
	list, err := filepath.Glob(filepath.Join(escapeGlob(dir), partialPrefix+"*"))
	for _, path := range list {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// escapeGlob makes a path mean itself to filepath.Glob.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
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
			return failure(virterr.SystemError, "cannot chown '%s' to (%d, %d): %w", path, perms.owner, perms.group, virterr.Strerror(err))
		}
	}
	mode := perms.mode
	if mode < 0 {
		mode = defaultVolumeMode
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(mode)); err != nil {
		return failure(virterr.SystemError, "cannot set mode of '%s' to %04o: %w", path, mode, virterr.Strerror(err))
	}
	return nil
}
