package rpc

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerGroups asks the kernel for the supplementary groups that the peer had when it connected: SO_PEERGROUPS of unix(7),
// since Linux 4.13. Without it the answer is none, which grants nothing.
func peerGroups(fd int) []uint32 {
	groups := make([]uint32, 64)
	for range 4 {
		// The kernel writes at most size bytes into the array, and the size it needs.
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:min(int(size/4), len(groups))]
		case errors.Is(errno, unix.ERANGE) && int(size/4) > len(groups) && size <= 65536*4: // NGROUPS_MAX
			groups = make([]uint32, size/4)
		default:
			return nil
		}
	}
	return nil
}
