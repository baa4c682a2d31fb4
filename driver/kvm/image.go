package kvm

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/driver/kvm/imagelock"
	"virtd/virterr"
)

// imageRecord is an image a domain uses.
type imageRecord struct {
	Alias string `json:"alias"`
	Path  string `json:"path"`
	// Backing: not the disk's own image, but one further down its chain.
	Backing bool `json:"backing,omitempty"`
	inode
}

// openRegular opens a file that must be a regular one, without hanging on what is not.
func openRegular(what, path string, flags int) (*os.File, error) {
	f, st, err := openAny(what, path, flags)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, virterr.New(virterr.SystemError, "%s '%s' is %s, not a regular file", what, path, kindOf(st))
	}
	return f, nil
}

// openAny opens a file without hanging on a fifo or a device without a medium, and without making it a terminal.
func openAny(what, path string, flags int) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, st, openError(what, path, err)
	}
	if err = unix.Fstat(fd, &st); err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return nil, st, openError(what, path, err)
	}
	return os.NewFile(uintptr(fd), path), st, nil
}

func kindOf(st unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFBLK:
		return "a block device"
	case unix.S_IFCHR:
		return "a character device"
	case unix.S_IFIFO:
		return "a fifo"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "of an unknown kind"
}

// openImage opens and locks the image of a disk.
func (d *Driver) openImage(r Resource) (*os.File, imageRecord, error) {
	flags := unix.O_RDWR
	if r.Disk.ReadOnly {
		flags = unix.O_RDONLY
	}
	if r.Disk.Direct {
		flags |= unix.O_DIRECT
	}
	f, st, err := openAny("storage file", r.Path, flags)
	if errors.Is(err, unix.EINVAL) && r.Disk.Direct {
		return nil, imageRecord{}, virterr.New(virterr.ConfigUnsupported,
			"the file system of '%s' cannot bypass the page cache, which cache='none' and 'directsync' need: use cache='writeback'", r.Path)
	}
	if err != nil {
		return nil, imageRecord{}, err
	}
	want, kind := uint32(unix.S_IFREG), "file"
	if r.Disk.Block {
		want, kind = unix.S_IFBLK, "block"
	}
	if st.Mode&unix.S_IFMT != want {
		f.Close()
		return nil, imageRecord{}, virterr.New(virterr.ConfigUnsupported, "'%s' is %s, which a disk of type '%s' cannot be", r.Path, kindOf(st), kind)
	}
	image := imageRecord{Alias: r.Alias, Path: r.Path, inode: inode{Dev: st.Dev, Ino: st.Ino}}
	if err := d.lockImage(f, r, image.inode); err != nil {
		f.Close()
		return nil, imageRecord{}, err
	}
	return f, image, nil
}

func (d *Driver) lockImage(f *os.File, r Resource, id inode) error {
	mode := imagelock.Exclusive
	switch {
	case r.Disk.ReadOnly:
		mode = imagelock.ReadOnly
	case r.Disk.Shareable:
		mode = imagelock.Shared
	}
	return d.lock(f, r.Path, mode, id)
}

// lock locks an image, or says who has it.
func (d *Driver) lock(f *os.File, path string, mode imagelock.Mode, id inode) error {
	err := imagelock.Take(f, mode)
	var conflict *imagelock.Conflict
	switch {
	case errors.As(err, &conflict):
		return virterr.New(virterr.ResourceBusy, "%w; it is in use by %s", conflict, d.owner(f, id, conflict.Byte))
	case errors.Is(err, imagelock.ErrUnsupported):
		d.log.Warn("an image is used without a lock", "path", path, "err", err)
		return nil
	case err != nil:
		return virterr.New(virterr.SystemError, "cannot lock image '%s': %w", path, err)
	}
	return nil
}

// owner names who holds an image: a domain of ours, a process, or nobody we may see.
func (d *Driver) owner(f *os.File, id inode, b int64) string {
	if names := d.users(id); len(names) > 0 {
		return "domain '" + strings.Join(names, "', '") + "'"
	}
	var names []string
	for _, h := range imagelock.Holders(f, b) {
		names = append(names, fmt.Sprintf("%s, pid %d", h.Name, h.PID))
	}
	if len(names) == 0 {
		return "another process"
	}
	return strings.Join(names, "; ")
}
