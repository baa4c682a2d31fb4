package net

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readv and writev use raw system calls: the descriptors are non-blocking, so a call is short, and the scheduler need not
// know of it. Iovecs point to guest memory, outside the Go heap, or to buffers that the caller keeps alive.

func readv(fd int, iov []unix.Iovec) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
	return int(n), e
}

func writev(fd int, iov []unix.Iovec) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
	return int(n), e
}

// recv and send are the same for sockets. A far end that is gone is an error and never a signal.

func recv(fd int, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

func send(fd int, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), e
}

// nameThread sets what top -H shows for the calling thread, 15 bytes of it.
func nameThread(name string) {
	var b [16]byte
	copy(b[:15], name)
	_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b)), 0)
	runtime.KeepAlive(&b)
}

// punctual has the timers of the calling thread go off within a microsecond. Those of the engine's other threads may be late.
func punctual() {
	_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, 1000, 0)
}
