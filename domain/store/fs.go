package store

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// filesystem is what the store asks of the kernel: one method for each step after which power can fail. Tests put faults
// between them.
type filesystem interface {
	MkdirAll(path string, mode os.FileMode) error
	ReadDir(path string) ([]os.DirEntry, error)
	ReadFile(path string, limit int64) ([]byte, error)
	// Create makes a new file for writing; it must not exist.
	Create(path string, mode os.FileMode) (file, error)
	// Direct opens a file for WriteAt, in whole blocks from aligned memory. Each write is durable when it returns; the kernel
	// keeps no copy of it. Not every file system has that.
	Direct(path string) (file, error)
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(path string) error
}

// file is a file being written.
type file interface {
	io.Writer
	io.WriterAt
	// Sync makes what was written durable, with whatever of the file system's own it takes to find it again, but not more.
	Sync() error
	// WriteBack has the kernel begin to write, so that a Sync of several files waits for the disk and not for each of them
	// to be given its place there. It promises nothing.
	WriteBack()
	Close() error
}

// disk is the real filesystem.
type disk struct{}

func (disk) MkdirAll(path string, mode os.FileMode) error { return os.MkdirAll(path, mode) }
func (disk) ReadDir(path string) ([]os.DirEntry, error)   { return os.ReadDir(path) }
func (disk) Rename(from, to string) error                 { return os.Rename(from, to) }
func (disk) Remove(path string) error                     { return os.Remove(path) }

func (disk) ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: path, Err: os.ErrInvalid} // a fifo would block
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}

func (disk) Create(path string, mode os.FileMode) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Direct(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT|unix.O_DSYNC, 0)
	if err != nil {
		return nil, err
	}
	return directFile{diskFile{f}}, nil
}

// directFile is opened with O_DIRECT and O_DSYNC.
type directFile struct{ diskFile }

func (directFile) Sync() error { return nil } // each write was

type diskFile struct{ *os.File }

// Sync spares the file system the times of the file, which fsync(2) would have it write to its own journal.
func (f diskFile) Sync() error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) {
		for {
			if err = unix.Fdatasync(int(fd)); err != unix.EINTR {
				return
			}
		}
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("fdatasync", err)
}

func (f diskFile) WriteBack() {
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
	}
}

func (disk) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
