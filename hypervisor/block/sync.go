package block

import (
	"golang.org/x/sys/unix"
)

// zeroes is what WriteZeroes writes where the host cannot do better.
var zeroes [64 << 10]byte

// perform does op, of which file and at are set, on the calling thread and leaves the result in op.Err. It is what pool
// threads run, and the loop's own thread for what does not wait.
func (img *Image) perform(op *Op) {
	switch op.Code {
	case Read, Write:
		if img.needsBounce(op) {
			op.Err = img.bounce(op)
		} else {
			op.Err = img.transfer(op)
		}
	case Flush:
		op.Err = img.flush()
	case Discard:
		op.Err = img.discard(op)
	case WriteZeroes:
		op.Err = img.writeZeroes(op)
	default:
		op.Err = unix.ENOSYS
	}
}

// rwFlags are the flags of a preadv2 or pwritev2 for op.
func (op *Op) rwFlags() int {
	if op.Code == Write && op.Durable {
		return unix.RWF_DSYNC
	}
	return 0
}

// transfer reads or writes until nothing is left.
func (img *Image) transfer(op *Op) unix.Errno {
	trap := uintptr(unix.SYS_PREADV2)
	if op.Code == Write {
		trap = unix.SYS_PWRITEV2
	}
	for op.state < op.Len {
		n, errno := vectored(trap, img.fd, op.Iov, op.at+op.state, op.rwFlags())
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		if errno := op.progress(int64(n)); errno != 0 {
			return errno
		}
	}
	return 0
}

// progress accounts for n bytes moved. A read at the end of the file gives zeroes: the image was cut behind our back, or
// its size is no multiple of a sector. A write that moves nothing is an error.
func (op *Op) progress(n int64) unix.Errno {
	if n == 0 {
		if op.Code == Write {
			return unix.EIO
		}
		for i := range op.Iov {
			clear(iovecBytes(&op.Iov[i]))
		}
		op.state = op.Len
		return 0
	}
	op.state += n
	op.Iov = advance(op.Iov, n)
	return 0
}

func (img *Image) flush() unix.Errno {
	if img.opts.Cache == CacheUnsafe {
		return 0
	}
	return retry(func() error { return unix.Fdatasync(img.fd) })
}

// retry repeats call while a signal interrupts it.
func retry(call func() error) unix.Errno {
	for {
		err := call()
		errno, _ := err.(unix.Errno)
		if err == nil {
			return 0
		}
		if errno != unix.EINTR {
			if errno == 0 {
				errno = unix.EIO
			}
			return errno
		}
	}
}

func unsupported(errno unix.Errno) bool { return errno == unix.EOPNOTSUPP || errno == unix.ENOSYS }

// discard gives space back. It is a hint: a host that cannot do it does nothing.
func (img *Image) discard(op *Op) unix.Errno {
	if !img.opts.Discard || img.noPunch.Load() {
		return 0
	}
	errno := img.punch(op.at, op.Len)
	if unsupported(errno) {
		img.noPunch.Store(true)
		return 0
	}
	return errno
}

// punch makes a range read as zeroes and gives its space back. On a block device it discards where zeroes are
// guaranteed, and writes them elsewhere.
func (img *Image) punch(off, n int64) unix.Errno {
	return retry(func() error {
		return unix.Fallocate(img.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// writeZeroes makes a range read as zeroes by the cheapest means that the host has.
func (img *Image) writeZeroes(op *Op) unix.Errno {
	errno := unix.Errno(unix.EOPNOTSUPP)
	if op.Unmap && img.opts.Discard && !img.noPunch.Load() {
		if errno = img.punch(op.at, op.Len); unsupported(errno) {
			img.noPunch.Store(true)
		}
	}
	if unsupported(errno) && !img.noZero.Load() {
		errno = retry(func() error {
			return unix.Fallocate(img.fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, op.at, op.Len)
		})
		if unsupported(errno) {
			img.noZero.Store(true)
		}
	}
	if unsupported(errno) {
		errno = img.writeZeroBytes(op.at, op.Len)
	}
	if errno == 0 && op.Durable {
		errno = img.flush()
	}
	return errno
}

func (img *Image) writeZeroBytes(off, n int64) unix.Errno {
	for n > 0 {
		buf := zeroes[:min(n, int64(len(zeroes)))]
		sub := Op{Code: Write, at: off, Len: int64(len(buf))}
		iov := unix.Iovec{Base: &buf[0]}
		iov.SetLen(len(buf))
		sub.Iov = []unix.Iovec{iov}
		if img.perform(&sub); sub.Err != 0 {
			return sub.Err
		}
		off, n = off+sub.Len, n-sub.Len
	}
	return 0
}
