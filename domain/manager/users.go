package manager

import (
	"os"
	"slices"
	"syscall"

	"virtd/domain"
	"virtd/domain/xmltree"
)

// ImageUsers returns the names of the running domains that have the file or device at path as a disk, or below one in its
// chain, under whatever name.
func (m *Manager) ImageUsers(path string) []string {
	st, err := os.Stat(path)
	if err != nil {
		st = nil // what is gone can still be open
	}
	var users []string
	for _, d := range m.List(ListActive) {
		live := d.live()
		if live == nil {
			continue // it ended
		}
		for _, disk := range live.Tree().Root.Child("devices").All("disk") {
			if usesImage(disk, path, st) {
				users = append(users, d.Name())
				break
			}
		}
	}
	slices.Sort(users)
	return users
}

// usesImage tells whether a disk's image, or one below it, is the file called name, or file under another name.
func usesImage(disk *xmltree.Node, name string, file os.FileInfo) bool {
	paths := []string{domain.DiskPath(disk)}
	chain, _ := domain.DiskChain(disk)
	for _, c := range chain {
		paths = append(paths, c.Path)
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		if path == name {
			return true
		}
		if file == nil {
			return false
		}
		st, err := os.Stat(path)
		return err == nil && (os.SameFile(st, file) || sameDevice(st, file))
	})
}

// sameDevice reports whether two files are the same block device. There may be several, and none be a link: with no udev,
// LVM makes /dev/GROUP/VOLUME and /dev/mapper/GROUP-VOLUME.
func sameDevice(a, b os.FileInfo) bool {
	const kind = os.ModeDevice | os.ModeCharDevice
	as, aok := a.Sys().(*syscall.Stat_t)
	bs, bok := b.Sys().(*syscall.Stat_t)
	return aok && bok && a.Mode()&kind == os.ModeDevice && b.Mode()&kind == os.ModeDevice && as.Rdev == bs.Rdev
}
