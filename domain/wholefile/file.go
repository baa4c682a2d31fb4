package wholefile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"virtd/durable"
)

// File is a file on its way. It is not safe for concurrent use. Exactly one of Commit and Abort is called, then Close.
type File struct {
	*os.File
	path   string // where it goes, symbolic links followed
	temp   string // its name until then, "" for none
	device bool
}

// ErrKind is returned (wrapped) for a path with something on it that is neither a regular file nor a block device.
var ErrKind = errors.New("it is neither a regular file nor a block device")

// Create begins a file for path, which need not exist. It is open for reading and writing, empty but for a block device.
// Only its owner may read it.
func Create(path string) (*File, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0:
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		return &File{File: f, path: path, device: true}, nil
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("'%s': %w", path, ErrKind)
	}
	return create(path)
}

func create(path string) (*File, error) {
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return &File{File: os.NewFile(uintptr(fd), path), path: path}, nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	temp := tempName(path)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &File{File: f, path: path, temp: temp}, nil
}

// TempSuffix ends the names of files that are not complete; a dot begins them.
const TempSuffix = ".virtd-part"

func tempName(path string) string {
	var unique [6]byte
	rand.Read(unique[:]) // never fails
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+hex.EncodeToString(unique[:])+TempSuffix)
}

// Commit makes the file durable, then gives it its name, durably too.
func (f *File) Commit() error {
	if err := f.Sync(); err != nil {
		return err
	}
	if f.device {
		return nil
	}
	if f.temp == "" {
		temp := tempName(f.path)
		// The link in /proc needs no privilege, unlike linking the descriptor itself.
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW); err != nil {
			return &os.PathError{Op: "link", Path: temp, Err: err}
		}
		f.temp = temp
	}
	if err := os.Rename(f.temp, f.path); err != nil {
		return err
	}
	f.temp = ""
	return durable.SyncDir(filepath.Dir(f.path))
}

// Abort removes what was written; a block device keeps it.
func (f *File) Abort() error {
	if f.temp == "" {
		return nil
	}
	return os.Remove(f.temp)
}
