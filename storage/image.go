package storage

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"golang.org/x/sys/unix"
)

// image is what an image file says of itself. The file is what a guest may have written, so nothing in it is believed: it is
// read for showing only, a few bytes of it, and no file that it names is opened.
type image struct {
	format      string // raw or qcow2
	capacity    uint64 // bytes that a guest sees
	allocation  uint64 // bytes that the file takes up
	physical    uint64 // bytes from its beginning to its end
	stat        syscall.Stat_t
	qcow2       *qcow2Header
	backing     string // absolute
	backingType string
	extents     []deviceExtents // of a logical volume
}

// deviceExtents are the parts of a physical volume that a logical volume has, in bytes.
type deviceExtents struct {
	path   string
	ranges [][2]uint64 // from, to
}

// Of QEMU's docs/interop/qcow2.txt.
const (
	qcow2Magic         = 0x514649fb
	qcow2BackingFormat = 0xe2792aca // header extension
	qcow2LazyRefcounts = 1 << 0     // compatible feature
	qcow2ExtendedL2    = 1 << 4     // incompatible feature
	qcow2MaxBacking    = 1023       // bytes of the backing file's name
)

// qcow2Header is the part that XML shows.
type qcow2Header struct {
	version, clusterBits     uint32
	compatible, incompatible uint64
}

// inspect describes a file. One that cannot be read is taken for raw: that is what it would be given to a guest as.
func inspect(path string) (image, error) {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		var im image
		if serr := syscall.Stat(path, &im.stat); serr != nil {
			return im, serr
		}
		im.asRaw()
		return im, nil
	}
	defer f.Close()
	var im image
	if err := syscall.Fstat(int(f.Fd()), &im.stat); err != nil {
		return im, err
	}
	im.asRaw()
	if noted(f) {
		return im, nil
	}
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return im, nil // its data is unreadable, which is for those to report who need it
	}
	im.readQcow2(f, head[:n], path)
	return im, nil
}

func (im *image) asRaw() {
	im.format = "raw"
	im.physical = uint64(im.stat.Size)
	im.capacity = im.physical
	im.allocation = uint64(im.stat.Blocks) * 512
}

// readQcow2 recognizes a qcow2 header. One that makes no sense leaves the file raw.
func (im *image) readQcow2(r io.ReaderAt, head []byte, path string) {
	if len(head) < 72 || binary.BigEndian.Uint32(head) != qcow2Magic {
		return
	}
	h := &qcow2Header{version: binary.BigEndian.Uint32(head[4:]), clusterBits: binary.BigEndian.Uint32(head[20:])}
	if h.version < 2 || h.version > 3 || h.clusterBits < 9 || h.clusterBits > 21 {
		return
	}
	headerSize := uint32(72)
	if h.version == 3 {
		if len(head) < 104 {
			return
		}
		h.incompatible, h.compatible = binary.BigEndian.Uint64(head[72:]), binary.BigEndian.Uint64(head[80:])
		headerSize = binary.BigEndian.Uint32(head[100:])
	}
	im.format, im.qcow2, im.capacity = "qcow2", h, binary.BigEndian.Uint64(head[24:])
	offset, size := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint32(head[16:])
	if offset == 0 || size == 0 || size > qcow2MaxBacking || offset > im.physical {
		return
	}
	name := make([]byte, size)
	if n, _ := r.ReadAt(name, int64(offset)); n < len(name) {
		return
	}
	if strings.ContainsFunc(string(name), unicode.IsControl) { // which XML cannot hold
		return
	}
	im.backing = string(name)
	if !filepath.IsAbs(im.backing) && !strings.Contains(im.backing, ":") {
		im.backing = filepath.Join(filepath.Dir(path), im.backing)
	}
	im.backingType = backingFormat(head, headerSize)
}

// backingFormat looks through the header's extensions.
func backingFormat(head []byte, at uint32) string {
	for at >= 72 && uint64(at)+8 <= uint64(len(head)) {
		kind, size := binary.BigEndian.Uint32(head[at:]), binary.BigEndian.Uint32(head[at+4:])
		begin := uint64(at) + 8
		if kind == 0 || begin+uint64(size) > uint64(len(head)) {
			return ""
		}
		if kind == qcow2BackingFormat {
			name := string(head[begin : begin+uint64(size)])
			if strings.ContainsFunc(name, unicode.IsControl) {
				return ""
			}
			return name
		}
		at = uint32(begin) + (size+7)&^7
	}
	return ""
}

// openData opens what a volume's data is in: a regular file or a block device.
func openData(path string, flags int) (*os.File, error) {
	return openKind(path, flags, func(m os.FileMode) bool { return m.IsRegular() || m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0 })
}

// openRegular opens an existing regular file, never waiting for a fifo's other end.
func openRegular(path string, flags int) (*os.File, error) {
	return openKind(path, flags, os.FileMode.IsRegular)
}

func openKind(path string, flags int, is func(os.FileMode) bool) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !is(st.Mode()) {
		err = &os.PathError{Op: "open", Path: path, Err: unix.EINVAL}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
