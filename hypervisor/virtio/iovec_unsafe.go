package virtio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// iovecBytes is the memory behind v. It aliases guest memory.
func iovecBytes(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }

// Advance drops the first n bytes of iov in place and returns the rest, which shares iov's array. Dropping more than
// there is leaves nothing.
func Advance(iov []unix.Iovec, n uint64) []unix.Iovec {
	for len(iov) > 0 && n >= iov[0].Len {
		n -= iov[0].Len
		iov = iov[1:]
	}
	if len(iov) > 0 && n > 0 {
		iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n))
		iov[0].Len -= n
	}
	return iov
}

// LastByte returns the last byte of iov, where several device types want their status, or nil when iov is empty. It
// aliases guest memory.
func LastByte(iov []unix.Iovec) *byte {
	for i := len(iov) - 1; i >= 0; i-- {
		if b := iovecBytes(&iov[i]); len(b) > 0 {
			return &b[len(b)-1]
		}
	}
	return nil
}

// Truncate keeps the first n bytes of iov in place and returns them.
func Truncate(iov []unix.Iovec, n uint64) []unix.Iovec {
	for i := range iov {
		if n <= iov[i].Len {
			iov[i].Len = n
			if n == 0 {
				return iov[:i]
			}
			return iov[:i+1]
		}
		n -= iov[i].Len
	}
	return iov
}

// CopyFrom copies bytes from iov, starting off bytes into it, to p and returns how many there were. The parts of a header
// may be spread over any number of entries (virtio 1.2, 2.6.4).
func CopyFrom(p []byte, iov []unix.Iovec, off uint64) int {
	done := 0
	for i := range iov {
		if off >= iov[i].Len {
			off -= iov[i].Len
			continue
		}
		done += copy(p[done:], iovecBytes(&iov[i])[off:])
		if off = 0; done == len(p) {
			break
		}
	}
	return done
}

// CopyTo copies p to iov, starting off bytes into it, and returns how many bytes fitted.
func CopyTo(iov []unix.Iovec, off uint64, p []byte) int {
	done := 0
	for i := range iov {
		if off >= iov[i].Len {
			off -= iov[i].Len
			continue
		}
		done += copy(iovecBytes(&iov[i])[off:], p[done:])
		if off = 0; done == len(p) {
			break
		}
	}
	return done
}

// Zero clears the n bytes of iov that start off bytes into it and returns how many there were.
func Zero(iov []unix.Iovec, off, n uint64) uint64 {
	var done uint64
	for i := range iov {
		if off >= iov[i].Len {
			off -= iov[i].Len
			continue
		}
		b := iovecBytes(&iov[i])[off:]
		b = b[:min(uint64(len(b)), n-done)]
		clear(b)
		done += uint64(len(b))
		if off = 0; done == n {
			break
		}
	}
	return done
}
