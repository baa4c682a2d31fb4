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

// create makes a volume's file.
func (p *dirPool) create(ctx context.Context, v Volume, r *request, fill func(*os.File) error) error {
	f, partial, err := openPartial(v)
	if err != nil {
		return failure(virterr.SystemError, "cannot create path '%s': %w", v.Path, virterr.Strerror(err))
	}
	defer func() {
		f.Close()
		if partial != "" {
			_ = os.Remove(partial) // ours, or named finally by now
		}
	}()
	if fill == nil {
		fill = func(f *os.File) error { return blank(ctx, f, r) }
	}
	if err := fill(f); err != nil {
		return err
	}
	if err := own(f, v.Path, r.perms); err != nil {
		return err
	}
	note(f, r.format)
	if err := f.Sync(); err != nil {
		return failure(virterr.SystemError, "cannot sync data to file '%s': %w", v.Path, virterr.Strerror(err))
	}
	// A link, unlike a rename, replaces nothing.
	if partial == "" {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, v.Path, unix.AT_SYMLINK_FOLLOW)
	} else {
		err = unix.Renameat2(unix.AT_FDCWD, partial, unix.AT_FDCWD, v.Path, unix.RENAME_NOREPLACE)
	}
	if errors.Is(err, fs.ErrExist) && isRegular(v.Path) {
		return volumeExists(r.name)
	}
	if err != nil {
		return failure(virterr.SystemError, "cannot create path '%s': %w", v.Path, virterr.Strerror(err))
	}
	return syncDir(filepath.Dir(v.Path))
}

// partialPrefix begins the names of files that are being made, where the filesystem has no files without a name, and of
// logical volumes that are being filled. They are no volumes, and those of a virtd that was killed are removed when their
// pool starts.
const partialPrefix = ".virtd-partial-"

// openPartial makes the file of a volume to be. It has no name (partial is empty) where that can be.
func openPartial(v Volume) (f *os.File, partial string, err error) {
	dir := filepath.Dir(v.Path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), v.Path), "", nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) {
		return nil, "", err
	}
	partial = filepath.Join(dir, partialPrefix+uuid.NewString())
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

// own gives the file its owner and mode.
func own(f *os.File, path string, perms permissions) error {
	mode := perms.mode
	if mode < 0 {
		mode = defaultVolumeMode
	}
	return chown(f, path, perms, mode)
}

// chown gives a file or device the owner that perms say and a mode, unless that is negative.
func chown(f *os.File, path string, perms permissions, mode int) error {
	if perms.owner >= 0 || perms.group >= 0 {
		if err := f.Chown(perms.owner, perms.group); err != nil {
			return failure(virterr.SystemError, "cannot chown '%s' to (%d, %d): %w", path, perms.owner, perms.group, virterr.Strerror(err))
		}
	}
	if mode < 0 {
		return nil
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(mode)); err != nil {
		return failure(virterr.SystemError, "cannot set mode of '%s' to %04o: %w", path, mode, virterr.Strerror(err))
	}
	return nil
}
