package block

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Cache says how the host's page cache takes part, by libvirt's names.
type Cache string

// Cache modes.
const (
	CacheNone         Cache = "none"         // O_DIRECT
	CacheWriteback    Cache = "writeback"    // the page cache; flushes reach the disk
	CacheWritethrough Cache = "writethrough" // the page cache; each write reaches the disk
	CacheDirectsync   Cache = "directsync"   // O_DIRECT; each write reaches the disk
	CacheUnsafe       Cache = "unsafe"       // the page cache; flushes do nothing
)

// DetectZeroes says what becomes of writes that are all zeroes.
type DetectZeroes string

// What detect_zeroes can be.
const (
	DetectOff   DetectZeroes = "off"
	DetectOn    DetectZeroes = "on"    // write them as zeroes without the data
	DetectUnmap DetectZeroes = "unmap" // and give the space back, where Discard is on
)

// Options describe how an image is used.
type Options struct {
	ReadOnly     bool
	Cache        Cache        // "" is writeback
	Discard      bool         // Discard and WriteZeroes with Unmap give space back
	DetectZeroes DetectZeroes // "" is off
	// Report is told, once, what is wrong with an image whose metadata turns out to make no sense; requests can only
	// fail. It must not block. nil tells nobody.
	Report func(error)
}

// Image is a disk image: a regular file or a block device, raw or with a format. It is safe for concurrent use.
type Image struct {
	format  *format // nil: raw
	fd      int
	opts    Options
	size    atomic.Int64
	device  bool  // a block device
	direct  bool  // O_DIRECT is on
	align   int64 // of offsets, lengths and memory when direct
	inRAM   bool  // the file system is RAM: nothing waits
	noZero  atomic.Bool
	noPunch atomic.Bool

	throttle atomic.Pointer[Throttle] // nil: no limits

	rmw sync.Mutex // read-modify-write of unaligned direct writes
}

// Open makes an image of the open file fd, which it owns from then on, also when it fails. The format is raw and never
// probed: the guest can write any header.
func Open(fd int, o Options) (*Image, error) {
	img, err := open(fd, o)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return img, nil
}

func open(fd int, o Options) (*Image, error) {
	switch o.Cache {
	case "":
		o.Cache = CacheWriteback
	case CacheNone, CacheWriteback, CacheWritethrough, CacheDirectsync, CacheUnsafe:
	default:
		return nil, fmt.Errorf("open disk image: no cache mode %q", o.Cache)
	}
	switch o.DetectZeroes {
	case "", DetectOff, DetectOn, DetectUnmap:
	default:
		return nil, fmt.Errorf("open disk image: no detect_zeroes mode %q", o.DetectZeroes)
	}
	img := &Image{fd: fd, opts: o, align: 1}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("open disk image: %w", err)
	}
	if mode := flags & unix.O_ACCMODE; !o.ReadOnly && mode != unix.O_RDWR {
		return nil, errors.New("open disk image: the file is open for reading only, and the disk is not read-only")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("open disk image: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		img.device = true
	default:
		return nil, errors.New("open disk image: not a regular file or block device")
	}
	if err := img.readSize(); err != nil {
		return nil, err
	}
	if err := img.setDirect(flags); err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err == nil && !img.device {
		switch int64(fs.Type) {
		case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
			img.inRAM = true
		}
	}
	return img, nil
}

// setDirect turns O_DIRECT on where the cache mode asks for it and finds the alignment it needs.
func (img *Image) setDirect(flags int) error {
	if want := img.opts.Cache == CacheNone || img.opts.Cache == CacheDirectsync; want && flags&unix.O_DIRECT == 0 {
		if _, err := unix.FcntlInt(uintptr(img.fd), unix.F_SETFL, flags|unix.O_DIRECT); err != nil {
			return fmt.Errorf("open disk image with cache %s: its file system does not support O_DIRECT (use another cache mode): %w", img.opts.Cache, err)
		}
		flags |= unix.O_DIRECT
	}
	if flags&unix.O_DIRECT == 0 {
		return nil
	}
	img.direct = true
	buf, err := unix.Mmap(-1, 0, 2*maxAlign, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("open disk image: %w", err)
	}
	defer unix.Munmap(buf)
	// What the kernel refuses is what it needs: each probe reads one block of a size at that size. Memory may be less
	// aligned for some devices, but not where a block crosses a page.
	for img.align = 512; img.align < maxAlign; img.align *= 2 {
		if _, err := unix.Pread(img.fd, buf[:img.align], img.align); err != unix.EINVAL {
			break
		}
	}
	return nil
}

// maxAlign is the largest alignment that direct access may need: a page.
const maxAlign = 4096

func (img *Image) readSize() error {
	end, err := unix.Seek(img.fd, 0, unix.SEEK_END) // works for both kinds
	if err != nil {
		return fmt.Errorf("find the size of the disk image: %w", err)
	}
	img.size.Store(end)
	return nil
}

// Size returns the bytes that a guest sees.
func (img *Image) Size() int64 {
	if img.format != nil {
		return img.format.q.Size()
	}
	return img.size.Load()
}

// FD is the open file, which the image owns; with a backing chain, the first.
func (img *Image) FD() int { return img.fd }

// SetThrottle makes t limit the image from now on; nil ends all limits. Images may share one. Loops look at the requests that
// they hold back after their next Wake.
func (img *Image) SetThrottle(t *Throttle) { img.throttle.Store(t) }

// Options returns how the image was opened.
func (img *Image) Options() Options { return img.opts }

// Resize makes a file bytes long. For a block device it looks the size up, which must have become at least bytes. What
// is in flight beyond a new, smaller end fails or is lost.
func (img *Image) Resize(bytes int64) error {
	if img.opts.ReadOnly {
		return errors.New("resize disk image: it is read-only")
	}
	if bytes < 0 || bytes%512 != 0 {
		return fmt.Errorf("resize disk image to %d bytes: not whole sectors", bytes)
	}
	if img.format != nil {
		return img.format.q.Resize(bytes)
	}
	if img.device {
		if err := img.readSize(); err != nil {
			return err
		}
		if now := img.Size(); now < bytes {
			return fmt.Errorf("resize block device to %d bytes: it has %d (grow the device first)", bytes, now)
		}
	} else if err := unix.Ftruncate(img.fd, bytes); err != nil {
		return fmt.Errorf("resize disk image to %d bytes: %w", bytes, err)
	}
	img.size.Store(bytes)
	return nil
}

// Close writes what a format has in memory and closes the files. All loops must have been closed.
func (img *Image) Close() error {
	if img.format != nil {
		return img.format.close()
	}
	return unix.Close(img.fd)
}
