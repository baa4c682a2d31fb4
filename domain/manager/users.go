package manager

import (
	"os"
	"slices"

	"virtd/domain"
	"virtd/domain/xmltree"
)

// ImageUsers returns the names of the running domains that have the file or device at path as a disk, or below one in its
// chain, under whatever name.
func (m *Manager) ImageUsers(path string) []string {
	st, err := os.Stat(path)
	if err != nil {
		return nil
	}
	var users []string
	for _, d := range m.List(ListActive) {
		_, live, err := d.engine()
		if err != nil {
			continue // it ended
		}
		for _, disk := range live.Tree().Root.Child("devices").All("disk") {
			if usesImage(disk, st) {
				users = append(users, d.Name())
				break
			}
		}
	}
	slices.Sort(users)
	return users
}

// usesImage tells whether a disk's image, or one below it, is a file.
func usesImage(disk *xmltree.Node, file os.FileInfo) bool {
	paths := []string{domain.DiskPath(disk)}
	chain, _ := domain.DiskChain(disk)
	for _, c := range chain {
		paths = append(paths, c.Path)
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		st, err := os.Stat(path)
		return err == nil && os.SameFile(st, file)
	})
}
