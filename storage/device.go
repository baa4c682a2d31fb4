package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"virtd/storage/signature"
	"virtd/virterr"
)

// device is a source that nobody else uses, open.
type device struct {
	*os.File
	path  string
	size  int64
	block bool
}

// openDevice opens a source for a pool to take. A block device that something else has is refused: the kernel knows file
// systems, swap, RAID and device mapper, the manager the disks of domains and the sources of other pools.
func (m *Manager) openDevice(path string, flags int) (*device, error) {
	if users := m.users(path); len(users) > 0 {
		return nil, failure(virterr.OperationInvalid, "device '%s' is a disk of the running domain '%s'", path, strings.Join(users, "', '"))
	}
	node := m.host.Path(path)
	f, err := openData(node, flags)
	if err != nil {
		return nil, failure(virterr.SystemError, "cannot open source device '%s': %w", path, virterr.Strerror(err))
	}
	d := &device{File: f, path: path}
	if d.size, d.block, err = extent(f); err != nil {
		f.Close()
		return nil, failure(virterr.SystemError, "cannot find the size of '%s': %w", path, virterr.Strerror(err))
	}
	if err := m.claimDevice(d, node, flags); err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// claimDevice fails when something on the host uses a device. With a block device it has no other user in the kernel until
// it is closed.
func (m *Manager) claimDevice(d *device, node string, flags int) error {
	if at := m.mountOf(d.path); at != "" {
		return failure(virterr.OperationInvalid, "source device '%s' is mounted at '%s'", d.path, at)
	}
	if !d.block {
		return nil
	}
	claimed, err := os.OpenFile(node, flags|unix.O_EXCL, 0)
	if err == nil {
		d.File.Close()
		d.File = claimed
		return nil
	}
	if !errors.Is(err, unix.EBUSY) {
		return failure(virterr.SystemError, "cannot open source device '%s': %w", d.path, virterr.Strerror(err))
	}
	return failure(virterr.OperationInvalid, "source device '%s' is in use%s", d.path, holders(d.File))
}

// holders names what is built on a block device, for an error's text.
func holders(f *os.File) string {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return ""
	}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	var names []string
	list, _ := filepath.Glob(dir + "/holders/*")
	parts, _ := filepath.Glob(dir + "/*/holders/*") // of its partitions
	for _, path := range append(list, parts...) {
		name := filepath.Base(path)
		if text, err := os.ReadFile("/sys/class/block/" + name + "/dm/name"); err == nil {
			name += " (" + strings.TrimSpace(string(text)) + ")"
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return ": it or a partition of it is mounted, swap space, or open in a program that wants it alone"
	}
	return " by " + strings.Join(names, ", ")
}

// mountOf returns where a device or image is mounted, "" where it is not.
func (m *Manager) mountOf(path string) string {
	list, err := m.host.Mounts()
	if err != nil {
		return ""
	}
	st, err := os.Stat(m.host.Path(path))
	if err != nil {
		return ""
	}
	for _, mount := range list {
		if m.isSource(mount, path, st) {
			return mount.Target
		}
	}
	return ""
}

// isSource reports whether a mount is of the device or image at path, which st describes.
func (m *Manager) isSource(mount Mount, path string, st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if ok && st.Mode()&os.ModeDevice != 0 && mount.Device == sys.Rdev || mount.Source == path {
		return true
	}
	if !filepath.IsAbs(mount.Source) {
		return false
	}
	other, err := os.Stat(m.host.Path(mount.Source))
	if err != nil {
		return false
	}
	osys, ook := other.Sys().(*syscall.Stat_t)
	return os.SameFile(st, other) || ok && ook && st.Mode()&os.ModeDevice != 0 && other.Mode()&os.ModeDevice != 0 && sys.Rdev == osys.Rdev
}

// look says what a device carries.
func (d *device) look() (signature.Report, error) {
	r, err := signature.Look(d.File, d.size)
	if err != nil {
		return r, failure(virterr.SystemError, "cannot read source device '%s': %w", d.path, virterr.Strerror(err))
	}
	return r, nil
}

// mustBeEmpty refuses a device that carries something, whatever it is.
func (d *device) mustBeEmpty() error {
	r, err := d.look()
	if err != nil || r.Empty() {
		return err
	}
	return failure(virterr.OperationInvalid, "device '%s' is not empty: it carries %s; build with --overwrite to destroy that", d.path, r)
}

// erase makes both ends of a device zero, so that nobody takes it for what it was.
func (d *device) erase() error {
	zeros := make([]byte, signature.End)
	head := min(d.size, signature.End)
	_, err := d.WriteAt(zeros[:head], 0)
	if err == nil {
		_, err = d.WriteAt(zeros[:head], d.size-head)
	}
	if err == nil {
		err = d.Sync()
	}
	if err != nil {
		return failure(virterr.SystemError, "cannot overwrite source device '%s': %w", d.path, virterr.Strerror(err))
	}
	return nil
}
