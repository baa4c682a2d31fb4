package vfio

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// type1 is the descriptor of a container with the type 1 IOMMU, version 2.
type type1 int

// add implements iommu: fd is a group's, and closing it, which is the caller's, takes it out.
func (c type1) add(fd int) error {
	status := groupStatus{argsz: sizeOf[groupStatus]()}
	if _, err := ioctlPtr(fd, reqGroupStatus, &status); err != nil {
		return fmt.Errorf("look at the IOMMU group: %w", err)
	}
	if status.flags&groupViable == 0 {
		return errors.New("the IOMMU group is not viable: another of its devices has a driver of the host")
	}
	container := int32(c)
	if _, err := ioctlPtr(fd, reqSetContainer, &container); err != nil {
		return fmt.Errorf("put the IOMMU group into the guest's container: %w", err)
	}
	return nil
}

// remove implements iommu.
func (c type1) remove(int) error { return nil }

// open implements iommu: a group is asked for one of its devices.
func (c type1) open(fd int, address string) (int, error) {
	dev, err := deviceFD(fd, address)
	if err != nil {
		return -1, fmt.Errorf("get PCI device %s from its IOMMU group (is its driver vfio-pci?): %w", address, err)
	}
	unix.CloseOnExec(dev)
	return dev, nil
}

func (c type1) setUp() error {
	_, err := ioctl(int(c), reqSetIOMMU, type1v2IOMMU)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("set up the IOMMU: %w: the host has no interrupt remapping (vfio_iommu_type1.allow_unsafe_interrupts=1 does without)", err)
	case err != nil:
		return fmt.Errorf("set up the IOMMU: %w", err)
	}
	return nil
}

func (c type1) ranges() ([]memory.Range, error) {
	text, at, err := c.capabilities()
	if err != nil {
		return nil, fmt.Errorf("ask for the addresses that the IOMMU reaches: %w", err)
	}
	return iovaRanges(text, at), nil
}

// capabilities returns the IOMMU's description and where in it the capabilities begin; nil when it has none.
func (c type1) capabilities() (text []byte, at uint32, err error) {
	info := iommuInfo{argsz: sizeOf[iommuInfo]()}
	if _, err := ioctlPtr(int(c), reqIOMMUGetInfo, &info); err != nil {
		return nil, 0, err
	}
	if info.flags&iommuInfoCaps == 0 || info.argsz <= sizeOf[iommuInfo]() {
		return nil, 0, nil
	}
	text, err = iommuWithCaps(int(c), &info)
	return text, info.capOffset, err
}

func (c type1) mapDMA(iova uint64, host []byte) error {
	d := dmaMap{argsz: sizeOf[dmaMap](), flags: dmaRead | dmaWrite, vaddr: hostAddress(host), iova: iova, size: uint64(len(host))}
	_, err := ioctlPtr(int(c), reqIOMMUMapDMA, &d)
	return err
}

func (c type1) unmapDMA(iova, size uint64) error {
	d := dmaUnmap{argsz: sizeOf[dmaUnmap](), iova: iova, size: size}
	_, err := ioctlPtr(int(c), reqIOMMUUnmapDMA, &d)
	return err
}

// startDirty implements iommu. The kernel itself says that every page is written where a group does not tell, which is each
// group of a PCI device up to Linux 6.12.
func (c type1) startDirty() (bool, error) {
	text, at, err := c.capabilities()
	if err != nil || !notesPages(text, at) {
		return false, err
	}
	d := dirtyPages{argsz: sizeOf[dirtyPages](), flags: dirtyStart}
	_, err = ioctlPtr(int(c), reqIOMMUDirtyPages, &d)
	return err == nil, err
}

func (c type1) stopDirty() error {
	d := dirtyPages{argsz: sizeOf[dirtyPages](), flags: dirtyStop}
	_, err := ioctlPtr(int(c), reqIOMMUDirtyPages, &d)
	return err
}

func (c type1) readDirty(r memory.Range, bitmap []uint64) error {
	return withAddress(bitmap, func(at uint64) error {
		d := dirtyBitmap{argsz: sizeOf[dirtyBitmap](), flags: dirtyGet, iova: r.GPA, length: r.Size, pageSize: memory.PageSize,
			size: uint64(len(bitmap)) * 8, data: at}
		_, err := ioctlPtr(int(c), reqIOMMUDirtyPages, &d)
		return err
	})
}

// notesPages reads struct vfio_iommu_type1_info_cap_migration: flags u32, a gap of four bytes, sizes of pages u64, bytes of the
// largest bitmap u64. The kernel notes pages of the smallest size, and this engine reads those of 4 KiB.
func notesPages(text []byte, at uint32) bool {
	start, ok := findCap(text, at, capMigration, 32)
	if !ok {
		return false
	}
	sizes := binary.NativeEndian.Uint64(text[start+16:])
	return sizes&-sizes == memory.PageSize
}

func (c type1) close() error { return unix.Close(int(c)) }

// findCap finds a capability of a VFIO info structure: a chain of headers (id u16, version u16, next u32) by offset. It
// returns where the one with that id begins, if there is one whose first need bytes are there.
func findCap(text []byte, at uint32, id uint16, need int) (int, bool) {
	for range 16 {
		if at == 0 || uint64(at)+8 > uint64(len(text)) {
			return 0, false
		}
		if binary.NativeEndian.Uint16(text[at:]) == id {
			return int(at), uint64(at)+uint64(need) <= uint64(len(text))
		}
		at = binary.NativeEndian.Uint32(text[at+4:])
	}
	return 0, false
}

// maxIOVA bounds ranges, so that their ends can be calculated with. No processor has as many address bits.
const maxIOVA = 1 << 60

// iovaRanges reads struct vfio_iommu_type1_info_cap_iova_range: number of ranges u32, reserved u32, then first and last
// address of each. nil when it is not there.
func iovaRanges(text []byte, at uint32) []memory.Range {
	start, ok := findCap(text, at, capIOVARange, 16)
	if !ok {
		return nil
	}
	le := binary.NativeEndian
	n := min(int(le.Uint32(text[start+8:])), (len(text)-start-16)/16)
	list := make([]iovaRange, n)
	for i := range list {
		list[i] = iovaRange{le.Uint64(text[start+16+16*i:]), le.Uint64(text[start+24+16*i:])}
	}
	return wholePages(list)
}

// wholePages returns the whole pages of ranges of addresses, in order.
func wholePages(list []iovaRange) []memory.Range {
	out := make([]memory.Range, 0, len(list))
	for _, r := range list {
		first := (min(r.first, maxIOVA) + memory.PageSize - 1) &^ (memory.PageSize - 1)
		end := (min(r.last, maxIOVA-1) + 1) &^ (memory.PageSize - 1)
		if first < end {
			out = append(out, memory.Range{GPA: first, Size: end - first})
		}
	}
	slices.SortFunc(out, func(a, b memory.Range) int { return cmp.Compare(a.GPA, b.GPA) })
	return out
}
