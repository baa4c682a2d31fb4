package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Region is one BAR, or configuration space, of a device.
type Region struct {
	Size   uint64 // bytes, 0 when there is none
	Mmap   []Area // parts that can be mapped, by offset; none when all accesses must go through the kernel
	offset int64  // in the device's descriptor
}

// Area is a part of a region.
type Area struct{ Offset, Size uint64 }

// Device is a function of the host as Function uses it. Its methods are safe for concurrent use.
type Device interface {
	// Regions are the six BARs and, as the seventh, configuration space.
	Regions() [7]Region
	// Vectors says how many pins, MSI and MSI-X interrupts the device has that can signal.
	Vectors() (pins, msi, msix int)
	// Read and Write access a region by offset. What the device does not answer reads as all ones.
	Read(region int, p []byte, offset uint64)
	Write(region int, p []byte, offset uint64)
	// ROMSize is how many bytes the window of the expansion ROM has, 0 when there is none, and ReadROM reads from its beginning:
	// n bytes. The device must decode memory.
	ROMSize() uint64
	ReadROM(p []byte) (n int, err error)
	// Map maps a part of a region, Unmap undoes it.
	Map(region int, a Area) ([]byte, error)
	Unmap(p []byte) error
	// SetInterrupts lets the device's MSI-X (or MSI) vectors signal eventfds, from vector 0 on; none switches them off.
	SetInterrupts(msix bool, eventfds []int) error
	// SetINTx lets the device's pin signal an eventfd, and masks it then until unmask is signalled; -1 switches it off.
	SetINTx(signal, unmask int) error
	// Notifies reports whether the kernel can tell a notice of the device.
	Notifies(n Notice) bool
	// SetNotice lets it signal an eventfd; -1 switches it off.
	SetNotice(n Notice, eventfd int) error
	// Reset puts the device back to power-on, without DMA.
	Reset() error
	Close() error
}

// Notice is what the kernel can tell of a device by an eventfd.
type Notice uint32

// Notices: an uncorrectable error (AER), and a request to give the device up.
const (
	NoticeError   Notice = 3 // VFIO_PCI_ERR_IRQ_INDEX
	NoticeRequest Notice = 4 // VFIO_PCI_REQ_IRQ_INDEX
)

// hostDevice is a Device of the kernel.
type hostDevice struct {
	fd        int
	address   string
	canReset  bool
	regions   [7]Region
	rom       Region
	pins      int
	msi, msix int
	notices   map[Notice]bool
}

// newDevice takes over the descriptor of a device.
func newDevice(fd int, address string) (Device, error) {
	d := &hostDevice{fd: fd, address: address}
	if err := d.describe(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("look at PCI device %s: %w", address, err)
	}
	return d, nil
}

func (d *hostDevice) describe() error {
	info := deviceInfo{argsz: sizeOf[deviceInfo]()}
	if _, err := ioctlPtr(d.fd, reqGetInfo, &info); err != nil {
		return fmt.Errorf("VFIO_DEVICE_GET_INFO: %w", err)
	}
	if info.flags&deviceFlagPCI == 0 || info.regions <= configRegion || info.irqs <= irqMSIX {
		return errors.New("it is not a PCI device")
	}
	d.canReset = info.flags&deviceFlagReset != 0
	for i := range d.regions {
		if i == 6 {
			r, err := d.region(configRegion)
			if err != nil {
				return err
			}
			d.regions[6] = r
			continue
		}
		r, err := d.region(uint32(i))
		if err != nil {
			return err
		}
		d.regions[i] = r
	}
	var err error
	if d.rom, err = d.region(romRegion); err != nil {
		return err
	}
	if d.pins, err = d.interrupts(irqINTx); err != nil {
		return err
	}
	if d.msi, err = d.interrupts(irqMSI); err == nil {
		d.msix, err = d.interrupts(irqMSIX)
	}
	d.notices = map[Notice]bool{}
	for _, n := range []Notice{NoticeError, NoticeRequest} {
		if uint32(n) < info.irqs { // a device that is not PCI Express tells of no errors, by an error
			count, err := d.interrupts(uint32(n))
			d.notices[n] = err == nil && count > 0
		}
	}
	return err
}

func (d *hostDevice) interrupts(index uint32) (int, error) {
	info := irqInfo{argsz: sizeOf[irqInfo](), index: index}
	if _, err := ioctlPtr(d.fd, reqGetIRQInfo, &info); err != nil {
		return 0, fmt.Errorf("VFIO_DEVICE_GET_IRQ_INFO %d: %w", index, err)
	}
	if info.flags&irqEventfd == 0 {
		return 0, nil
	}
	return int(info.count), nil
}

func (d *hostDevice) region(index uint32) (Region, error) {
	info := regionInfo{argsz: sizeOf[regionInfo](), index: index}
	if _, err := ioctlPtr(d.fd, reqGetRegionInfo, &info); err != nil {
		return Region{}, fmt.Errorf("VFIO_DEVICE_GET_REGION_INFO %d: %w", index, err)
	}
	r := Region{Size: info.size, offset: int64(info.offset)}
	if info.flags&regionMmap == 0 || info.size == 0 {
		return r, nil
	}
	r.Mmap = []Area{{0, info.size}}
	if info.flags&regionCaps == 0 {
		return r, nil
	}
	text, err := regionWithCaps(d.fd, &info)
	if err != nil {
		return r, fmt.Errorf("VFIO_DEVICE_GET_REGION_INFO %d: %w", index, err)
	}
	if areas, ok := sparseAreas(text, info.capOffset, info.size); ok {
		r.Mmap = areas
	}
	return r, nil
}

// sparseAreas reads the capability that says which parts of a region can be mapped (vfio_region_info_cap_sparse_mmap):
// header, number of areas u32, reserved u32, then offset and size of each.
func sparseAreas(text []byte, at uint32, size uint64) ([]Area, bool) {
	start, ok := findCap(text, at, capSparseMmap, 16)
	if !ok {
		return nil, false
	}
	le := binary.NativeEndian
	n := uint64(le.Uint32(text[start+8:]))
	if n > uint64(len(text)-start-16)/16 {
		return nil, false
	}
	var out []Area
	for i := range int(n) {
		entry := text[start+16+16*i:]
		a := Area{le.Uint64(entry), le.Uint64(entry[8:])}
		if a.Size > 0 && a.Offset < size && a.Size <= size-a.Offset {
			out = append(out, a)
		}
	}
	return out, true
}

// Regions implements Device.
func (d *hostDevice) Regions() [7]Region { return d.regions }

// Vectors implements Device.
func (d *hostDevice) Vectors() (int, int, int) { return d.pins, d.msi, d.msix }

// Read implements Device.
func (d *hostDevice) Read(region int, p []byte, offset uint64) {
	r := &d.regions[region]
	if offset < r.Size {
		for {
			n, err := unix.Pread(d.fd, p, r.offset+int64(offset))
			if err == unix.EINTR {
				continue
			}
			if err == nil && n == len(p) {
				return
			}
			break
		}
	}
	for i := range p {
		p[i] = 0xff
	}
}

// Write implements Device.
func (d *hostDevice) Write(region int, p []byte, offset uint64) {
	r := &d.regions[region]
	if offset >= r.Size {
		return
	}
	for {
		if _, err := unix.Pwrite(d.fd, p, r.offset+int64(offset)); err != unix.EINTR {
			return // what the device refuses is lost, as on a bus
		}
	}
}

// ROMSize implements Device.
func (d *hostDevice) ROMSize() uint64 { return d.rom.Size }

// ReadROM implements Device.
func (d *hostDevice) ReadROM(p []byte) (int, error) {
	n := 0
	for n < len(p) && uint64(n) < d.rom.Size {
		k, err := unix.Pread(d.fd, p[n:min(len(p), n+romPiece)], d.rom.offset+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, fmt.Errorf("read the ROM of PCI device %s: %w", d.address, err)
		case k == 0:
			return n, nil
		default:
			n += k
		}
	}
	return n, nil
}

// Map implements Device.
func (d *hostDevice) Map(region int, a Area) ([]byte, error) {
	return unix.Mmap(d.fd, d.regions[region].offset+int64(a.Offset), int(a.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// Unmap implements Device.
func (d *hostDevice) Unmap(p []byte) error { return unix.Munmap(p) }

// SetInterrupts implements Device.
func (d *hostDevice) SetInterrupts(msix bool, eventfds []int) error {
	index, name := uint32(irqMSI), "MSI"
	if msix {
		index, name = irqMSIX, "MSI-X"
	}
	if err := setIRQs(d.fd, index, setActionTrigger, eventfds); err != nil {
		return fmt.Errorf("set %d %s interrupts of PCI device %s: %w", len(eventfds), name, d.address, err)
	}
	return nil
}

// SetINTx implements Device.
func (d *hostDevice) SetINTx(signal, unmask int) error {
	if signal < 0 {
		if err := setIRQs(d.fd, irqINTx, setActionTrigger, nil); err != nil {
			return fmt.Errorf("switch the interrupt pin of PCI device %s off: %w", d.address, err)
		}
		return nil
	}
	err := setIRQs(d.fd, irqINTx, setActionTrigger, []int{signal})
	if err == nil {
		if err = setIRQs(d.fd, irqINTx, setActionUnmask, []int{unmask}); err != nil {
			err = errors.Join(err, setIRQs(d.fd, irqINTx, setActionTrigger, nil))
		}
	}
	if err != nil {
		return fmt.Errorf("switch the interrupt pin of PCI device %s on: %w", d.address, err)
	}
	return nil
}

// Notifies implements Device.
func (d *hostDevice) Notifies(n Notice) bool { return d.notices[n] }

// SetNotice implements Device.
func (d *hostDevice) SetNotice(n Notice, eventfd int) error {
	var fds []int
	if eventfd >= 0 {
		fds = []int{eventfd}
	}
	if err := setIRQs(d.fd, uint32(n), setActionTrigger, fds); err != nil {
		return fmt.Errorf("set notice %d of PCI device %s: %w", n, d.address, err)
	}
	return nil
}

// Reset implements Device.
func (d *hostDevice) Reset() error {
	if !d.canReset {
		return fmt.Errorf("PCI device %s cannot be reset: no FLR, PM reset or bus reset available", d.address)
	}
	if _, err := ioctl(d.fd, reqReset, 0); err != nil {
		return fmt.Errorf("reset PCI device %s: %w", d.address, err)
	}
	return nil
}

// Close implements Device.
func (d *hostDevice) Close() error { return unix.Close(d.fd) }
