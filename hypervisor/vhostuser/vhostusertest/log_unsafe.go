package vhostusertest

import (
	"sync/atomic"
	"unsafe"
)

// noteBits sets bits in the i-th 64-bit word of a log that the front end reads and clears.
func noteBits(log []byte, i int, bits uint64) {
	atomic.OrUint64((*uint64)(unsafe.Pointer(&log[8*i : 8*i+8][0])), bits)
}
