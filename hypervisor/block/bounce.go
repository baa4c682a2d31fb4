package block

import (
	"golang.org/x/sys/unix"
)

// bounceSize is how much of an unaligned direct request is copied at a time.
const bounceSize = 256 << 10

// needsBounce reports whether direct access to the file cannot take op's memory, offset or length as they are. Kernels
// and their file systems ask for block-aligned I/O; boot loaders do not.
func (img *Image) needsBounce(op *Op) bool {
	return img.direct && ((op.at|op.Len)&(img.align-1) != 0 || !aligned(op.Iov, img.align))
}

// bounce does a read or write through an aligned buffer. A write that does not cover whole blocks reads them first;
// no two of those run at once. Len is less than 2^32 times the size of a request, so that additions do not overflow.
func (img *Image) bounce(op *Op) unix.Errno {
	buf, err := unix.Mmap(-1, 0, bounceSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return unix.ENOMEM
	}
	defer unix.Munmap(buf)
	for op.state < op.Len {
		at := op.at + op.state
		start := at &^ (img.align - 1)
		lead := at - start
		n := min(op.Len-op.state, bounceSize-lead)
		whole := (lead + n + img.align - 1) &^ (img.align - 1)
		var errno unix.Errno
		if op.Code == Read {
			if errno = img.readBlocks(buf[:whole], start); errno == 0 {
				scatter(op.Iov, buf[lead:lead+n])
			}
		} else {
			errno = img.writeBlocks(op, buf[:whole], start, lead, n)
		}
		if errno != 0 {
			return errno
		}
		op.progress(n)
	}
	return 0
}

// readBlocks fills buf; what is beyond the end of the file is zero.
func (img *Image) readBlocks(buf []byte, off int64) unix.Errno {
	for done := 0; done < len(buf); {
		n, err := unix.Pread(img.fd, buf[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err.(unix.Errno)
		}
		if done += n; n == 0 || int64(done)%img.align != 0 { // the end of the file
			clear(buf[done:])
			break
		}
	}
	return 0
}

// writeBlocks writes n bytes of op, lead bytes into the blocks at start.
func (img *Image) writeBlocks(op *Op, buf []byte, start, lead, n int64) unix.Errno {
	if lead != 0 || n != int64(len(buf)) {
		img.rmw.Lock()
		defer img.rmw.Unlock()
		if errno := img.readBlocks(buf, start); errno != 0 {
			return errno
		}
	}
	gather(buf[lead:lead+n], op.Iov)
	iov := []unix.Iovec{{Base: &buf[0]}}
	iov[0].SetLen(len(buf))
	for len(iov) > 0 {
		done, errno := vectored(unix.SYS_PWRITEV2, img.fd, iov, start, op.rwFlags())
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return errno
		case done == 0 || int64(done)%img.align != 0:
			return unix.EIO
		}
		start += int64(done)
		iov = advance(iov, int64(done))
	}
	return 0
}

// gather copies from the front of iov to fill p.
func gather(p []byte, iov []unix.Iovec) {
	for i := 0; i < len(iov) && len(p) > 0; i++ {
		p = p[copy(p, iovecBytes(&iov[i])):]
	}
}

// scatter copies p to the front of iov.
func scatter(iov []unix.Iovec, p []byte) {
	for i := 0; i < len(iov) && len(p) > 0; i++ {
		p = p[copy(iovecBytes(&iov[i]), p):]
	}
}
