package kvm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/driver/kvm/imagelock"
	"virtd/hypervisor"
	"virtd/hypervisor/block/qcow2"
	"virtd/virterr"
)

// ChainResource is what the XML says of the images below a disk's own.
type ChainResource struct {
	Known  bool                  `json:"known,omitempty"` // else the headers alone say it
	Images []domain.BackingImage `json:"images,omitempty"`
}

// chainFile is an open backing image of a disk.
type chainFile struct {
	alias  string
	format string
	file   *os.File
}

// maxChain is how many backing images a disk can have.
const maxChain = 64

func planChain(format string, disk *xmltree.Node) *ChainResource {
	if format != "qcow2" {
		return nil
	}
	images, known := domain.DiskChain(disk)
	return &ChainResource{Known: known, Images: images}
}

// openChain opens and locks for reading the backing images of a disk whose image is open, as the headers name them.
func (d *Driver) openChain(o *opened, top *os.File, r Resource) error {
	chain := []domain.BackingImage{}
	if r.Disk.Chain == nil {
		o.runtime.Chains[r.Alias] = chain
		return nil
	}
	first, err := inodeOf(top)
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot look at image '%s': %w", r.Path, virterr.Strerror(err))
	}
	seen := map[inode]bool{first: true}
	for at, path, format := top, r.Path, "qcow2"; format == "qcow2"; {
		next, err := backingOf(at, path)
		if err != nil {
			return err
		}
		if next.Path == "" {
			break
		}
		if len(chain) == maxChain {
			return virterr.New(virterr.ConfigUnsupported, "image '%s' has more than %d backing images", r.Path, maxChain)
		}
		f, image, err := d.openBacking(next.Path, path, r, seen)
		if err != nil {
			return err
		}
		o.chains = append(o.chains, chainFile{r.Alias, next.Format, f})
		o.images = append(o.images, image)
		next.Block = isBlock(f)
		chain = append(chain, next)
		at, path, format = f, next.Path, next.Format
	}
	o.runtime.Chains[r.Alias] = chain
	return r.Disk.Chain.agrees(r.Path, chain)
}

// agrees refuses a chain other than the one that the XML spells out.
func (c *ChainResource) agrees(path string, found []domain.BackingImage) error {
	if !c.Known {
		return nil
	}
	for i := range max(len(c.Images), len(found)) {
		want, got := "none", "none"
		if i < len(c.Images) {
			want = fmt.Sprintf("'%s' of format '%s'", c.Images[i].Path, c.Images[i].Format)
		}
		if i < len(found) {
			got = fmt.Sprintf("'%s' of format '%s'", found[i].Path, found[i].Format)
		}
		if want != got {
			return virterr.New(virterr.ConfigUnsupported, "the <backingStore> of disk '%s' names as backing image %d %s, the image's header %s; "+
				"remove <backingStore> to go by the headers", path, i+1, want, got)
		}
	}
	return nil
}

// backingOf reads from an image's header which image is below it; no path is none.
func backingOf(f *os.File, path string) (domain.BackingImage, error) {
	// An image opened past the page cache cannot be read just anyhow.
	plain, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return domain.BackingImage{}, openError("storage file", path, err)
	}
	defer plain.Close()
	h, err := qcow2.ReadHeader(qcow2.OSFile{File: plain})
	if err != nil {
		return domain.BackingImage{}, virterr.New(virterr.ConfigUnsupported, "cannot use image '%s' as qcow2: %w", path, err)
	}
	next := domain.BackingImage{Path: h.BackingFile, Format: h.BackingFormat}
	switch name := h.BackingFile; {
	case name == "":
		return domain.BackingImage{}, nil
	case h.BackingFormat == "":
		return next, virterr.New(virterr.OperationInvalid, "format of backing image '%s' of image '%s' was not specified in the image metadata "+
			"(See https://libvirt.org/kbase/backing_chains.html for troubleshooting)", name, path)
	case h.BackingFormat != "raw" && h.BackingFormat != "qcow2":
		return next, virterr.New(virterr.ConfigUnsupported, "backing image '%s' of image '%s' has format '%s'; there are 'raw' and 'qcow2'", name, path, h.BackingFormat)
	}
	if next.Path, err = h.BackingPath(path); err != nil {
		return next, virterr.New(virterr.ConfigUnsupported, "cannot use image '%s': %w", path, err)
	}
	return next, nil
}

// openBacking opens and locks a backing image of the image at parent. One that was seen goes in a circle.
func (d *Driver) openBacking(path, parent string, r Resource, seen map[inode]bool) (*os.File, imageRecord, error) {
	flags := unix.O_RDONLY
	if r.Disk.Direct {
		flags |= unix.O_DIRECT
	}
	f, st, err := openAny("backing file", path, flags)
	var errno unix.Errno
	if errors.As(err, &errno) {
		return nil, imageRecord{}, virterr.New(virterr.SystemError, "Cannot access backing file '%s' of storage file '%s' (as uid:%d, gid:%d): %w",
			path, parent, os.Geteuid(), os.Getegid(), virterr.Strerror(errno))
	}
	if err != nil {
		return nil, imageRecord{}, err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFBLK {
		f.Close()
		return nil, imageRecord{}, virterr.New(virterr.ConfigUnsupported, "backing file '%s' of image '%s' is %s", path, parent, kindOf(st))
	}
	id := inode{Dev: st.Dev, Ino: st.Ino}
	if seen[id] {
		f.Close()
		return nil, imageRecord{}, virterr.New(virterr.InternalError, "backing store for %s (%s) is self-referential", r.Path, path)
	}
	seen[id] = true
	image := imageRecord{Alias: r.Alias, Path: path, Backing: true, inode: id}
	if err := d.lock(f, path, imagelock.ReadOnly, image.inode); err != nil {
		f.Close()
		return nil, imageRecord{}, err
	}
	return f, image, nil
}

func inodeOf(f *os.File) (inode, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return inode{Dev: st.Dev, Ino: st.Ino}, err
}

func isBlock(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

// addChains tells the engine of the backing images, whose descriptors come after those that were planned.
func (o *opened) addChains(cfg *hypervisor.Config) {
	for n, c := range o.chains {
		for i := range cfg.Disks {
			disk := &cfg.Disks[i]
			if disk.ID != c.alias {
				continue
			}
			name := hypervisor.FileName(fmt.Sprintf("backing:%s:%d", c.alias, n))
			disk.Backing = append(disk.Backing, hypervisor.BackingImage{File: name, Format: c.format})
			cfg.Files = append(cfg.Files, name)
			o.files = append(o.files, c.file)
		}
	}
	o.chains = nil
}
