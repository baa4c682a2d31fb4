package block

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectored is preadv2 or pwritev2 (number trap) of iov at off. x/sys builds its own iovecs for each call; ours exist.
func vectored(trap uintptr, fd int, iov []unix.Iovec, off int64, flags int) (int, unix.Errno) {
	if len(iov) == 0 {
		return 0, 0
	}
	// On 64-bit the offset is one argument and the high half is ignored.
	n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), uintptr(off), 0, uintptr(flags))
	return int(n), errno
}

func iovecBytes(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }

// aligned reports whether memory and length of every piece are multiples.
func aligned(iov []unix.Iovec, align int64) bool {
	var bits uintptr
	var lens uint64
	for i := range iov {
		bits |= uintptr(unsafe.Pointer(iov[i].Base))
		lens |= iov[i].Len
	}
	return bits&uintptr(align-1) == 0 && lens&uint64(align-1) == 0
}

// allZero reports whether every byte is zero.
func allZero(iov []unix.Iovec) bool {
	for i := range iov {
		b := iovecBytes(&iov[i])
		for len(b) >= 32 && uintptr(unsafe.Pointer(&b[0]))%8 == 0 {
			w := (*[4]uint64)(unsafe.Pointer(&b[0]))
			if w[0]|w[1]|w[2]|w[3] != 0 {
				return false
			}
			b = b[32:]
		}
		for _, v := range b {
			if v != 0 {
				return false
			}
		}
	}
	return true
}

// advance drops the first n bytes of iov in place.
func advance(iov []unix.Iovec, n int64) []unix.Iovec {
	for len(iov) > 0 && uint64(n) >= iov[0].Len {
		n -= int64(iov[0].Len)
		iov = iov[1:]
	}
	if len(iov) > 0 && n > 0 {
		iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n))
		iov[0].Len -= uint64(n)
	}
	return iov
}
