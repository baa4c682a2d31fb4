package store

import "unsafe"

// alignedBytes returns so many zeros that begin at a multiple of blockSize, as writes past the kernel's cache want it.
func alignedBytes(size int) []byte {
	b := make([]byte, size+blockSize)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (blockSize - 1)
	return b[skip:][:size:size]
}
