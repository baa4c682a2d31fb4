package virtio

import "encoding/binary"

// The capability through which a driver that cannot reach the BAR accesses it by configuration space (virtio 1.2,
// 4.1.4.9). Offsets are from the start of the capability.
const (
	windowBAR    = 4
	windowOffset = 8
	windowLength = 12
	windowData   = 16
)

// addWindow adds VIRTIO_PCI_CAP_PCI_CFG. The driver writes bar, offset and length, then reads or writes the data field.
func (t *PCI) addWindow() {
	body := make([]byte, 17)
	body[0] = capPCI
	writable := make([]byte, 17)
	writable[windowBAR-3] = 0xff
	for i := windowOffset; i < windowData+4; i++ {
		writable[i-3] = 0xff
	}
	at := t.fn.AddVendorCapability(body, writable)
	t.fn.OnRead(at+windowData, 4, func(int, int) {
		var p [4]byte
		if offset, n, ok := t.window(at); ok {
			(*virtioBAR)(t).Read(offset, p[:n])
			t.fn.SetUint32(at+windowData, binary.LittleEndian.Uint32(p[:]))
		}
	})
	t.fn.OnAct(at+windowData, 4, func(int, int) {
		var p [4]byte
		if offset, n, ok := t.window(at); ok {
			binary.LittleEndian.PutUint32(p[:], t.fn.Uint32(at+windowData))
			(*virtioBAR)(t).Write(offset, p[:n])
		}
	})
}

// window returns the access that the capability at at describes, if it is one the driver may make.
func (t *PCI) window(at int) (offset uint64, n int, ok bool) {
	length := t.fn.Uint32(at + windowLength)
	offset = uint64(t.fn.Uint32(at + windowOffset))
	if t.fn.Uint8(at+windowBAR) != barVirtio || length != 1 && length != 2 && length != 4 {
		return 0, 0, false
	}
	if offset%uint64(length) != 0 || offset+uint64(length) > t.barSize {
		return 0, 0, false
	}
	return offset, int(length), true
}
