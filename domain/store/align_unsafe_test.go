package store

import "unsafe"

// isAligned reports whether b begins where writes past the kernel's cache may.
func isAligned(b []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%blockSize == 0 }
