package storage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// dirPool is a pool of type dir: a directory, whose regular files are the volumes.
type dirPool struct{ d *definition }

func (p *dirPool) exclusive() bool { return false }

// build makes the directory, and those above it that are missing. One that exists keeps its mode and owner where the
// definition does not say them. There is nothing that the flags could spare or destroy.
func (p *dirPool) build(_ context.Context, _ BuildFlags) error {
	d := p.d
	if err := os.MkdirAll(filepath.Dir(d.target), 0o755); err != nil {
		return failure(virterr.SystemError, "cannot create path '%s': %w", filepath.Dir(d.target), virterr.Strerror(err))
	}
	mode := d.perms.mode
	err := os.Mkdir(d.target, 0o700) // closed until the owner is right
	switch {
	case err == nil && mode < 0:
		mode = defaultPoolMode
	case errors.Is(err, fs.ErrExist):
		if st, serr := os.Stat(d.target); serr != nil || !st.IsDir() {
			return failure(virterr.SystemError, "cannot create path '%s': %w", d.target, virterr.Strerror(unix.ENOTDIR))
		}
	case err != nil:
		return failure(virterr.SystemError, "cannot create path '%s': %w", d.target, virterr.Strerror(err))
	}
	return p.own(mode)
}

// own gives the directory the definition's owner, and a mode unless that is negative.
func (p *dirPool) own(mode int) error {
	d := p.d
	if d.perms.owner >= 0 || d.perms.group >= 0 {
		if err := os.Chown(d.target, d.perms.owner, d.perms.group); err != nil {
			return failure(virterr.SystemError, "cannot chown '%s' to (%d, %d): %w", d.target, d.perms.owner, d.perms.group, virterr.Strerror(err))
		}
	}
	if mode >= 0 {
		if err := unix.Chmod(d.target, uint32(mode)); err != nil { // os.Chmod has other bits for setgid and sticky
			return failure(virterr.SystemError, "cannot set mode of '%s' to %04o: %w", d.target, mode, virterr.Strerror(err))
		}
	}
	return nil
}

func (p *dirPool) start(ctx context.Context) error {
	if err := p.refresh(ctx); err != nil {
		return err
	}
	if err := removePartials(p.d.target); err != nil {
		return failure(virterr.SystemError, "cannot remove unfinished volumes from '%s': %w", p.d.target, virterr.Strerror(err))
	}
	return nil
}

// running takes the record's word: whether the directory can be read now, each use of it says.
func (p *dirPool) running(context.Context) (bool, error) {
	return true, removePartials(p.d.target)
}

func (p *dirPool) stop(context.Context) error { return nil }

// delete removes the directory, if it is empty.
func (p *dirPool) delete(context.Context) error {
	if err := unix.Rmdir(p.d.target); err != nil {
		hint := ""
		if errors.Is(err, unix.ENOTEMPTY) {
			hint = " (only an empty directory is removed: delete its volumes first, or undefine the pool and leave the directory)"
		}
		return failure(virterr.SystemError, "failed to remove pool '%s': %w%s", p.d.target, virterr.Strerror(err), hint)
	}
	return nil
}

// refresh fails unless the directory can be read. There is nothing else to refresh: lists are made from the directory itself.
func (p *dirPool) refresh(context.Context) error {
	f, err := os.OpenFile(p.d.target, os.O_RDONLY|unix.O_DIRECTORY, 0) // O_DIRECTORY: a fifo would wait for its other end
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = " (make it with pool-build)"
		}
		return failure(virterr.SystemError, "cannot open directory '%s': %w%s", p.d.target, virterr.Strerror(err), hint)
	}
	defer f.Close()
	if _, err := f.ReadDir(1); err != nil && !errors.Is(err, io.EOF) {
		return failure(virterr.SystemError, "cannot read directory '%s': %w", p.d.target, virterr.Strerror(err))
	}
	return nil
}

func (p *dirPool) sizes(context.Context) (poolSizes, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(p.d.target, &s); err != nil {
		return poolSizes{}, failure(virterr.SystemError, "cannot statvfs path '%s': %w", p.d.target, virterr.Strerror(err))
	}
	unit := uint64(s.Frsize)
	total, free := s.Blocks*unit, s.Bfree*unit
	return poolSizes{capacity: total, allocation: total - free, available: free}, nil
}

func (p *dirPool) permissions() permissions {
	if st, err := os.Stat(p.d.target); err == nil {
		return permissionsOf(st, p.d.perms.label)
	}
	return p.d.perms
}

// volumes returns the regular files. Links to regular files count, as in libvirt.
func (p *dirPool) volumes(context.Context) ([]found, error) {
	list, err := os.ReadDir(p.d.target)
	if err != nil {
		return nil, failure(virterr.SystemError, "cannot open directory '%s': %w", p.d.target, virterr.Strerror(err))
	}
	var out []found
	for _, e := range list {
		if nameError(e.Name()) != nil || strings.HasPrefix(e.Name(), partialPrefix) {
			continue
		}
		f := p.found(e.Name())
		if e.Type().IsRegular() || e.Type()&os.ModeSymlink != 0 && isRegular(f.path) {
			out = append(out, f)
		}
	}
	return out, nil
}

func (p *dirPool) volume(_ context.Context, name string) (found, bool) {
	f := p.found(name)
	return f, isRegular(f.path)
}

func (p *dirPool) found(name string) found {
	path := filepath.Join(p.d.target, name)
	return found{name: name, path: path, key: path}
}

func isRegular(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

func (p *dirPool) inspect(v Volume) (image, error) { return inspect(v.Path) }

// remove removes a volume's file; of a link, the link.
func (p *dirPool) remove(_ context.Context, v Volume) error {
	if err := unix.Unlink(v.Path); err != nil {
		return failure(virterr.SystemError, "cannot unlink file '%s': %w", v.Path, virterr.Strerror(err))
	}
	return syncDir(filepath.Dir(v.Path))
}

func (p *dirPool) resize(_ context.Context, v Volume, size uint64, allocate bool) error {
	f, err := openData(v.Path, os.O_RDWR)
	if err != nil {
		return failure(virterr.SystemError, "cannot open '%s': %w", v.Path, virterr.Strerror(err))
	}
	defer f.Close()
	if err := extend(f, size); err != nil {
		return err
	}
	if allocate && size > 0 {
		err := fits(f, size-min(size, taken(f)))
		if err == nil {
			err = unix.Fallocate(int(f.Fd()), 0, 0, int64(size))
		}
		if errors.Is(err, unix.EOPNOTSUPP) {
			return failure(virterr.OperationUnsupported, "the filesystem of '%s' cannot reserve space; its size is changed", v.Path)
		}
		if err != nil {
			return failure(virterr.SystemError, "cannot allocate %d bytes in file '%s': %w", size, v.Path, virterr.Strerror(err))
		}
	}
	if err := f.Sync(); err != nil {
		return failure(virterr.SystemError, "cannot sync data to file '%s': %w", v.Path, virterr.Strerror(err))
	}
	return nil
}
