package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl issues a request whose argument is a number.
func ioctl(fd int, req, arg uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, arg)
	if errno != 0 {
		return r, errno
	}
	return r, nil
}

// ioctlPtr issues a request whose argument is a structure, which the kernel reads or fills.
func ioctlPtr[T any](fd int, req uintptr, arg *T) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return r, errno
	}
	return r, nil
}

// sizeOf returns the bytes of T as the kernel sees them.
func sizeOf[T any]() uintptr {
	var v T
	return unsafe.Sizeof(v)
}

// hostAddress returns the address of a mapping that outlives its use by the kernel: guest RAM, mmap'd outside the Go
// heap.
func hostAddress(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

// setRouting issues KVM_SET_GSI_ROUTING. The head goes into the end of an entry before the first, so that the whole is
// one allocation of the size needed.
func setRouting(fd int, routes []Route) error {
	buf := make([]Route, len(routes)+1)
	copy(buf[1:], routes)
	head := (*routing)(unsafe.Add(unsafe.Pointer(&buf[0]), unsafe.Sizeof(buf[0])-unsafe.Sizeof(routing{})))
	head.n = uint32(len(routes))
	_, err := ioctlPtr(fd, reqSetGSIRouting, head)
	return err
}
