package store

import "unsafe"

// aligned reports whether b begins where writes past the kernel's cache may.
func aligned(b []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%blockSize == 0 }
