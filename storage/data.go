package storage

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// chunk is how much is read or written at once: often enough to notice that the client left.
const chunk = 1 << 20

func dirOf(path string) string { return filepath.Dir(path) }

// extend gives a file its size without taking up space.
func extend(f *os.File, size uint64) error {
	if err := f.Truncate(int64(size)); err != nil {
		return failure(virterr.SystemError, "cannot extend file '%s' to %d bytes: %w", f.Name(), size, virterr.Strerror(err))
	}
	return nil
}

// reserve takes up space for the first size bytes, by writing zeros where the filesystem has no other way. The file must be
// empty of data.
func reserve(ctx context.Context, f *os.File, size uint64) error {
	if size == 0 {
		return nil
	}
	err := fits(f, size)
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, int64(size))
	}
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, int64(size))
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = zero(ctx, f, 0, int64(size))
	}
	if err != nil {
		return failure(virterr.SystemError, "cannot allocate %d bytes in file '%s': %w", size, f.Name(), virterr.Strerror(err))
	}
	return nil
}

// fits fails when the filesystem has not that much space left. The kernel would say so only after it had taken all there is,
// from everybody else too.
func fits(f *os.File, size uint64) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
		return err
	}
	if size > s.Bfree*uint64(s.Frsize) {
		return unix.ENOSPC
	}
	return nil
}

// zero overwrites a range with zeros.
func zero(ctx context.Context, f *os.File, from, to int64) error {
	zeros := make([]byte, chunk)
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.WriteAt(zeros[:min(to-from, chunk)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// extents calls do for each range of a file that is not a hole, in order.
func extents(f *os.File, do func(from, to int64) error) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err != nil {
			return err
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := do(from, to); err != nil {
			return err
		}
		at = to
	}
	return nil
}

// copyData copies a file without its holes.
func copyData(ctx context.Context, out, in *os.File) error {
	buf := make([]byte, chunk)
	err := extents(in, func(from, to int64) error {
		for from < to {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := in.ReadAt(buf[:min(to-from, chunk)], from)
			if n == 0 && err == io.EOF {
				return nil // it was cut while we read
			}
			if n == 0 && err != nil {
				return err
			}
			if _, err := out.WriteAt(buf[:n], from); err != nil {
				return err
			}
			from += int64(n)
		}
		return nil
	})
	if err != nil {
		return failure(virterr.SystemError, "cannot copy '%s' to '%s': %w", in.Name(), out.Name(), virterr.Strerror(err))
	}
	return nil
}
