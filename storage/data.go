package storage

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// chunk is how much is read or written at once: often enough to notice that the client left.
const chunk = 1 << 20

// blank gives the file of a new volume its size and the space that the request says is allocated. A device has both, and is
// zero already.
func blank(ctx context.Context, f *os.File, r *request) error {
	if _, device, err := extent(f); err != nil || device {
		return err
	}
	if err := extend(f, r.capacity); err != nil {
		return err
	}
	return reserve(ctx, f, r.allocation)
}

// extent returns the size of a file or block device.
func extent(f *os.File) (size int64, device bool, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	if st.Mode().IsRegular() {
		return st.Size(), false, nil
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err == nil {
		_, err = f.Seek(at, io.SeekStart)
	}
	return size, true, err
}

// zeroDevice makes a range of a block device zero, by the device's own means where it has some.
func zeroDevice(ctx context.Context, f *os.File, from, to int64) error {
	const step = 64 << 20
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(to-from, step)
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, from, n)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) { // invalid: not at a block's edge
			err = zero(ctx, f, from, from+n)
		}
		if err != nil {
			return err
		}
		from += n
	}
	return nil
}

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

// extents calls do for each range of a file that is not a hole, in order. A block device has none.
func extents(f *os.File, do func(from, to int64) error) error {
	size, device, err := extent(f)
	if err != nil {
		return err
	}
	if device {
		return do(0, size)
	}
	for at := int64(0); at < size; {
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

// writerAt writes to out. Where a device is copied, or copied to, pieces of zeros are left out.
func writerAt(out, in *os.File) func(p []byte, off int64) error {
	_, from, _ := extent(in)
	_, to, _ := extent(out)
	return func(p []byte, off int64) error {
		for len(p) > 0 {
			n := min(len(p), piece)
			if !from && !to {
				n = len(p)
			}
			if !from && !to || !isZero(p[:n]) {
				if _, err := out.WriteAt(p[:n], off); err != nil {
					return err
				}
			}
			p, off = p[n:], off+int64(n)
		}
		return nil
	}
}

// copyData copies what is not zero in a file or device into one that is.
func copyData(ctx context.Context, out, in *os.File) error {
	buf := make([]byte, chunk)
	write := writerAt(out, in)
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
			if err := write(buf[:n], from); err != nil {
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
