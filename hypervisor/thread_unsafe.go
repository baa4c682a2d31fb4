package hypervisor

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setThreadName names the calling thread for ps and top; 15 bytes at most, and failure does no harm.
func setThreadName(name string) {
	var b [16]byte
	copy(b[:15], name)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}
