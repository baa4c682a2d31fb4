package storage

import (
	"os"

	"golang.org/x/sys/unix"
)

// The format of a volume is what its first bytes say, as with libvirt, except where it is known better: a guest can write any
// header into a raw disk, and what is a raw disk was known when the volume was made, written by an upload, or given to a
// guest. An extended attribute of the file then says raw, and nothing in it is looked at any more. Files that came into the
// directory otherwise, and filesystems without such attributes, leave the first bytes only.
const formatAttr = "user.virtd.format"

// note says what a file is from now on. Where that cannot be noted, the file's header speaks, as everywhere in libvirt.
func note(f *os.File, format string) {
	if format == formatRaw {
		_ = unix.Fsetxattr(int(f.Fd()), formatAttr, []byte(formatRaw), 0)
		return
	}
	_ = unix.Fremovexattr(int(f.Fd()), formatAttr)
}

// noted reports whether a file is known to be raw.
func noted(f *os.File) bool {
	buf := make([]byte, len(formatRaw)+1)
	n, err := unix.Fgetxattr(int(f.Fd()), formatAttr, buf)
	return err == nil && string(buf[:n]) == formatRaw
}

// Given notes that a guest is about to get the file at path as an image of that format, and may write to it.
func (m *Manager) Given(path, format string) {
	v, ok := m.volumeAt(path)
	if !ok {
		return
	}
	f, err := openRegular(v.Path, os.O_RDONLY) // a block device is raw anyway
	if err != nil {
		return
	}
	defer f.Close()
	if noted(f) != (format == formatRaw) {
		note(f, format)
	}
}

// noteUpload says what a file is after a client has written it from its beginning: that is no guest, so its header counts.
func noteUpload(f *os.File, path string) {
	note(f, "")
	if im, err := inspect(path); err == nil {
		note(f, im.format)
	}
}
