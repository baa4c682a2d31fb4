package vfio

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctl(fd int, req, arg uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, arg)
	if errno != 0 {
		return r, errno
	}
	return r, nil
}

// ioctlPtr issues a request whose argument is a structure, which the kernel reads or fills.
func ioctlPtr[T any](fd int, req uintptr, arg *T) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return r, errno
	}
	return r, nil
}

// sizeOf returns the bytes of T as the kernel sees them.
func sizeOf[T any]() uint32 {
	var v T
	return uint32(unsafe.Sizeof(v))
}

// deviceFD asks a group for the descriptor of one of its devices.
func deviceFD(group int, address string) (int, error) {
	name, err := unix.BytePtrFromString(address)
	if err != nil {
		return -1, err
	}
	fd, err := ioctlPtr(group, reqGetDeviceFD, name)
	return int(fd), err
}

// hostAddress returns the address of guest RAM, which is mapped outside the Go heap and outlives the map.
func hostAddress(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

// regionWithCaps asks for a region's description with the capabilities behind it: the first is at capOffset.
func regionWithCaps(fd int, r *regionInfo) ([]byte, error) {
	return withCaps(fd, reqGetRegionInfo, r, r.argsz, func(head *regionInfo) { head.argsz, head.index = r.argsz, r.index })
}

// iommuWithCaps asks for what an IOMMU can do with the capabilities behind it: the first is at capOffset.
func iommuWithCaps(fd int, i *iommuInfo) ([]byte, error) {
	return withCaps(fd, reqIOMMUGetInfo, i, i.argsz, func(head *iommuInfo) { head.argsz = i.argsz })
}

// withCaps issues a request for a structure of size bytes that begins with a T, which fill prepares and which is returned
// in to.
func withCaps[T any](fd int, req uintptr, to *T, size uint32, fill func(head *T)) ([]byte, error) {
	if size < sizeOf[T]() || size > maxInfo {
		return nil, unix.EINVAL
	}
	buf := make([]uint64, (size+7)/8)
	head := (*T)(unsafe.Pointer(unsafe.SliceData(buf)))
	fill(head)
	if _, err := ioctlPtr(fd, req, head); err != nil {
		return nil, err
	}
	*to = *head
	out := make([]byte, 0, len(buf)*8)
	for _, v := range buf {
		out = binary.NativeEndian.AppendUint64(out, v)
	}
	return out, nil
}

// setIRQs issues VFIO_DEVICE_SET_IRQS with eventfds as data for an action; none switches the index off.
func setIRQs(fd int, index, action uint32, eventfds []int) error {
	const head = 5 // words of irqSetHeader
	buf := make([]uint32, head+len(eventfds))
	h := (*irqSetHeader)(unsafe.Pointer(unsafe.SliceData(buf)))
	*h = irqSetHeader{argsz: uint32(len(buf) * 4), flags: setDataEventfd | action, index: index, count: uint32(len(eventfds))}
	if len(eventfds) == 0 {
		h.flags = setDataNone | action
	}
	for i, e := range eventfds {
		buf[head+i] = uint32(int32(e))
	}
	_, err := ioctlPtr(fd, reqSetIRQs, h)
	return err
}

// withAddress gives do the address of a slice, which stays where it is meanwhile, for the kernel to fill.
func withAddress[T any](p []T, do func(at uint64) error) error {
	var pin runtime.Pinner
	pin.Pin(unsafe.SliceData(p))
	defer pin.Unpin()
	return do(uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))))
}
