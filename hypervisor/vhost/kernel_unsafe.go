package vhost

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// driver is the kernel's side of a vhost descriptor; tests have their own.
type driver interface {
	none(fd int, req uint) error
	word(fd int, req uint, v *uint64) error
	state(fd int, req uint, v *vringState) error
	file(fd int, req uint, v *vringFile) error
	addr(fd int, v *vringAddr) error
	memTable(fd int, regions []memoryRegion) error
}

// kernel is the real driver.
type kernel struct{}

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

func (kernel) none(fd int, req uint) error                 { return ioctl(fd, req, nil) }
func (kernel) word(fd int, req uint, v *uint64) error      { return ioctl(fd, req, unsafe.Pointer(v)) }
func (kernel) state(fd int, req uint, v *vringState) error { return ioctl(fd, req, unsafe.Pointer(v)) }
func (kernel) file(fd int, req uint, v *vringFile) error   { return ioctl(fd, req, unsafe.Pointer(v)) }
func (kernel) addr(fd int, v *vringAddr) error {
	return ioctl(fd, reqSetVringAddr, unsafe.Pointer(v))
}

func (kernel) memTable(fd int, regions []memoryRegion) error {
	var table struct {
		memoryHeader
		regions [maxRegions]memoryRegion
	}
	table.memoryHeader.regions = uint32(copy(table.regions[:], regions))
	err := ioctl(fd, reqSetMemTable, unsafe.Pointer(&table))
	runtime.KeepAlive(&table)
	return err
}

// address is where b is in this process. b is a mapping outside the Go heap.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// takeWord reads and clears the i-th 64-bit word of a log that the kernel writes.
func takeWord(log []byte, i int) uint64 {
	return atomic.SwapUint64((*uint64)(unsafe.Pointer(&log[8*i : 8*i+8][0])), 0)
}
