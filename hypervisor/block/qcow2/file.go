package qcow2

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File is the file that an image is in. Its methods may be called by many goroutines at once.
type File interface {
	// Read fills p from off. What is beyond the file's end is zero.
	Read(p []byte, off int64) error
	// Write writes p at off, growing the file as needed.
	Write(p []byte, off int64) error
	// Sync makes what was written durable.
	Sync() error
	// Size is the file's length in bytes.
	Size() (int64, error)
	// Grows tells whether writing beyond the end makes the file larger; a block device does not.
	Grows() bool
	// Punch gives the space of a range back. It is a hint.
	Punch(off, n int64) error
}

// Backing is what clusters that were never written show: a raw file or another Image.
type Backing interface {
	// Size is what a guest would see of it, in bytes.
	Size() int64
	// Read fills p from off. What is beyond the end is zero.
	Read(p []byte, off int64) error
	// Map is as Image.Map.
	Map(off, n int64, write bool) (Extent, bool)
}

// Kind says what an Extent is.
type Kind uint8

// Kinds of extents.
const (
	Zero Kind = iota // reads as zeroes
	Data             // is in a file as it is
)

// Extent is a range of an image of one kind.
type Extent struct {
	Kind Kind
	File File  // of Data
	Off  int64 // of Data, in File
	Len  int64
}

// Raw is a raw image as Backing.
type Raw struct {
	F     File
	Bytes int64 // its size
}

// Size implements Backing.
func (r Raw) Size() int64 { return r.Bytes }

// Read implements Backing.
func (r Raw) Read(p []byte, off int64) error {
	n := min(max(r.Bytes-off, 0), int64(len(p)))
	clear(p[n:])
	if n == 0 {
		return nil
	}
	return r.F.Read(p[:n], off)
}

// Map implements Backing.
func (r Raw) Map(off, n int64, write bool) (Extent, bool) {
	if off >= r.Bytes {
		return Extent{Kind: Zero, Len: n}, true
	}
	return Extent{Kind: Data, File: r.F, Off: off, Len: min(n, r.Bytes-off)}, true
}

// OSFile is a File of the operating system, through its page cache.
type OSFile struct{ *os.File }

// Read implements File.
func (f OSFile) Read(p []byte, off int64) error {
	n, err := f.File.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		err = nil
	}
	return err
}

// Write implements File.
func (f OSFile) Write(p []byte, off int64) error {
	_, err := f.File.WriteAt(p, off)
	return err
}

// Size implements File.
func (f OSFile) Size() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return unix.Seek(int(f.Fd()), 0, unix.SEEK_END)
	}
	return st.Size, nil
}

// Grows implements File.
func (f OSFile) Grows() bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// Punch implements File.
func (f OSFile) Punch(off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}
