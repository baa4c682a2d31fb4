package store

import "unsafe"

// aligned returns the part of b that begins at a multiple of blockSize, as writes past the kernel's cache want it, and is
// blockSize shorter.
func aligned(b []byte) []byte {
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (blockSize - 1)
	size := len(b) - blockSize
	return b[skip:][:size:size]
}

// alignedBytes returns so many zeros that begin there.
func alignedBytes(size int) []byte { return aligned(make([]byte, size+blockSize)) }
