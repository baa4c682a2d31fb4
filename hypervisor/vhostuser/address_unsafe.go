package vhostuser

import "unsafe"

// address is where b is in this process. b is a mapping outside the Go heap.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
