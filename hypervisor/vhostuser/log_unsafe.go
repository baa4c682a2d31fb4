package vhostuser

import (
	"sync/atomic"
	"unsafe"
)

// wordsOf is b, a mapping of whole pages, by 64-bit words.
func wordsOf(b []byte) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}

// bytesOf undoes wordsOf.
func bytesOf(w []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), len(w)*8)
}

// takeBits reads and clears the bits of mask in a word that another process writes.
func takeBits(w *uint64, mask uint64) uint64 { return atomic.AndUint64(w, ^mask) & mask }
