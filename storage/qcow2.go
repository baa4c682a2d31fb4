package storage

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block/qcow2"
	"virtd/virterr"
)

// maxChain is how many images a chain can have.
const maxChain = 64

// chain is an image with those below it, open.
type chain struct {
	path  string
	files []*os.File
	top   qcow2.Backing
	image *qcow2.Image // top, where it is qcow2

	permit func(path, of string) error // whether an image that a header names may be opened; nil: all may
}

func (c *chain) close() {
	for _, f := range c.files {
		f.Close()
	}
}

// openChain opens an image of a format and all that its headers name, for reading but for the image itself. permit, unless
// nil, is asked before each of the images below is opened.
func openChain(path, format string, write bool, permit func(path, of string) error) (*chain, error) {
	c := &chain{path: path, permit: permit}
	top, err := c.open(path, format, write, map[[2]uint64]bool{})
	if err != nil {
		c.close()
		return nil, err
	}
	c.top = top
	c.image, _ = top.(*qcow2.Image)
	return c, nil
}

// permitBacking refuses to copy what is in no active pool. The format of a volume is what its first bytes say, and a guest
// writes those of a raw one: with a header of its own it would have any file of the host copied into the clone.
func (m *Manager) permitBacking(path, of string) error {
	if _, err := m.VolumeByPath(path); err != nil {
		return failure(virterr.OperationDenied, "'%s', on which '%s' says it is based, is in no active pool: if no guest wrote that, "+
			"define and start a pool for its directory", path, of)
	}
	return nil
}

func (c *chain) open(path, format string, write bool, seen map[[2]uint64]bool) (qcow2.Backing, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, failure(virterr.SystemError, "cannot open '%s': %w", path, virterr.Strerror(err))
	}
	c.files = append(c.files, f)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, failure(virterr.SystemError, "cannot stat file '%s': %w", path, virterr.Strerror(err))
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return nil, failure(virterr.OperationInvalid, "'%s' is neither a file nor a block device", path)
	}
	file := qcow2.OSFile{File: f}
	if format == formatRaw {
		size, err := file.Size()
		if err != nil {
			return nil, failure(virterr.SystemError, "cannot find the size of '%s': %w", path, virterr.Strerror(err))
		}
		return qcow2.Raw{F: file, Bytes: size}, nil
	}
	id := [2]uint64{st.Dev, st.Ino}
	if seen[id] || len(seen) == maxChain {
		return nil, failure(virterr.InternalError, "backing store for %s (%s) is self-referential", c.path, path)
	}
	seen[id] = true
	h, err := qcow2.ReadHeader(file)
	if err != nil {
		return nil, qcow2Error("use image", path, err)
	}
	o := qcow2.Options{ReadOnly: !write}
	if h.BackingFile != "" {
		below, err := h.BackingPath(path)
		if err != nil {
			return nil, qcow2Error("use image", path, err)
		}
		if h.BackingFormat != formatRaw && h.BackingFormat != formatQcow2 {
			return nil, failure(virterr.OperationInvalid, "format of backing image '%s' of image '%s' was not specified in the image metadata "+
				"(See https://libvirt.org/kbase/backing_chains.html for troubleshooting)", h.BackingFile, path)
		}
		if c.permit != nil {
			if err := c.permit(below, path); err != nil {
				return nil, err
			}
		}
		if o.Backing, err = c.open(below, h.BackingFormat, false, seen); err != nil {
			return nil, err
		}
	}
	q, err := qcow2.Open(file, o)
	if errors.Is(err, qcow2.ErrDirty) {
		if err = qcow2.Repair(file); err == nil {
			q, err = qcow2.Open(file, o)
		}
	}
	if err != nil {
		return nil, qcow2Error("use image", path, err)
	}
	return q, nil
}

// completeBacking checks the backing file of an image to be made at path and takes a missing capacity from it.
func (r *request) completeBacking(path string) error {
	if r.backing == "" {
		return nil
	}
	if !filepath.IsAbs(r.backing) {
		r.backing = filepath.Join(filepath.Dir(path), r.backing)
	}
	c, err := openChain(r.backing, r.qcow2.BackingFormat, false, nil)
	if err != nil {
		return failure(virterr.As(err).Code, "inaccessible backing store volume %s: %s", r.qcow2.BackingFile, virterr.As(err).Message)
	}
	defer c.close()
	if r.capacity == 0 {
		r.capacity = uint64(c.top.Size())
	}
	return nil
}

// makeQcow2 makes an empty image in f.
func (r *request) makeQcow2(f *os.File, flags CreateFlags) error {
	s := r.qcow2
	s.Size = int64((r.capacity + 511) &^ 511)
	if err := qcow2.Create(qcow2.OSFile{File: f}, s); err != nil {
		return failure(virterr.ConfigUnsupported, "cannot make qcow2 volume '%s': %w", r.name, virterr.Strerror(err))
	}
	if flags&CreatePreallocMetadata == 0 {
		return nil
	}
	if r.backing != "" {
		return failure(virterr.ConfigUnsupported, "metadata preallocation conflicts with backing store")
	}
	q, err := qcow2.Open(qcow2.OSFile{File: f}, qcow2.Options{})
	if err == nil {
		if err = q.Preallocate(); err == nil {
			err = q.Close()
		}
	}
	if err != nil {
		return qcow2Error("preallocate metadata of volume", r.name, err)
	}
	if r.allocation < r.capacity {
		return nil
	}
	end, err := f.Seek(0, io.SeekEnd) // allocation of all is that of the file, as libvirt does it
	if err == nil {
		err = fits(f, uint64(end))
	}
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, end)
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return failure(virterr.SystemError, "cannot allocate %d bytes in file '%s': %w", end, f.Name(), virterr.Strerror(err))
	}
	return nil
}

// convert makes f a copy of a chain, in the format that is asked for. Where the copy has the same backing file, only what
// the image itself has is copied.
func (r *request) convert(ctx context.Context, f *os.File, from *chain, flags CreateFlags) error {
	var write func(p []byte, off int64) error
	finish := func() error { return nil }
	if r.format == formatRaw {
		to := *r
		if r.allocation < r.capacity {
			to.allocation = 0
		}
		if err := blank(ctx, f, &to); err != nil {
			return err
		}
		write = qcow2.OSFile{File: f}.Write
	} else {
		if err := r.makeQcow2(f, flags); err != nil {
			return err
		}
		o := qcow2.Options{}
		if r.backing != "" {
			below, err := openChain(r.backing, r.qcow2.BackingFormat, false, nil)
			if err != nil {
				return err
			}
			defer below.close()
			o.Backing = below.top
		}
		q, err := qcow2.Open(qcow2.OSFile{File: f}, o)
		if err != nil {
			return qcow2Error("use image", f.Name(), err)
		}
		write, finish = q.Write, q.Close
	}
	if err := r.copyChain(ctx, from, write); err != nil {
		return failure(virterr.SystemError, "cannot copy '%s' to '%s': %w", from.path, f.Name(), virterr.Strerror(err))
	}
	if err := finish(); err != nil {
		return failure(virterr.SystemError, "cannot write '%s': %w", f.Name(), virterr.Strerror(err))
	}
	return nil
}

// copyChain writes what is not zero in from; over a backing file, what is from's own.
func (r *request) copyChain(ctx context.Context, from *chain, write func(p []byte, off int64) error) error {
	buf := make([]byte, chunk)
	size := from.top.Size()
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(size-off, chunk)
		if from.image != nil && r.backing != "" {
			own, length, err := from.image.Own(off, n)
			if err != nil {
				return err
			}
			if n = length; !own {
				off += n
				continue
			}
		} else if e, ok := from.top.Map(off, n, false); ok && e.Kind == qcow2.Zero {
			off += e.Len
			continue
		}
		if err := from.top.Read(buf[:n], off); err != nil {
			return err
		}
		if err := writePieces(buf[:n], off, r.backing != "", write); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// piece is the size in which zeroes are left out of a copy.
const piece = 64 << 10

func writePieces(p []byte, off int64, zeroesToo bool, write func(p []byte, off int64) error) error {
	for len(p) > 0 {
		n := min(len(p), piece-int(off%piece))
		if zeroesToo || !isZero(p[:n]) {
			q := p[:n]
			if pad := -n & 511; pad > 0 { // a raw source may end within a sector
				q = append(append([]byte(nil), q...), make([]byte, pad)...)
			}
			if err := write(q, off); err != nil {
				return err
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// resizeQcow2 makes a volume's image larger.
func (v Volume) resizeQcow2(size uint64, flags ResizeFlags) error {
	if flags&ResizeAllocate != 0 {
		return failure(virterr.OperationUnsupported, "preallocation is not supported when a qcow2 volume is resized")
	}
	c, err := openChain(v.Path, formatQcow2, true, v.pool.m.permitBacking)
	if err != nil {
		return err
	}
	defer c.close()
	size = (size + 511) &^ 511
	if size < uint64(c.image.Size()) {
		return failure(virterr.OperationUnsupported, "shrinking a qcow2 volume is not supported; copy it into a smaller one inside a guest")
	}
	err = c.image.Resize(int64(size))
	if cerr := c.image.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return qcow2Error("resize volume", v.Path, err)
	}
	return nil
}
