package memory

import "unsafe"

// hugeAlign is the size of a transparent huge page on x86-64.
const hugeAlign = 2 << 20

// aligned returns the n bytes of b, which is hugeAlign longer, that start at a multiple of hugeAlign. KVM maps a huge
// page only where guest and host addresses agree below its size, and before Linux 6.7 mmap does not see to that.
func aligned(b []byte, n uint64) []byte {
	off := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (hugeAlign - 1)
	return b[off : uint64(off)+n : uint64(off)+n]
}
