package vfio

import (
	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// iommufdFile is the descriptor of an open /dev/iommu.
type iommufdFile int

func (f iommufdFile) bind(fd int) (uint32, error) {
	b := bindIOMMUFD{argsz: sizeOf[bindIOMMUFD](), iommufd: int32(f)}
	_, err := ioctlPtr(fd, reqBindIOMMUFD, &b)
	return b.device, err
}

func (f iommufdFile) attach(fd int, target uint32) error {
	a := attachIOMMUFD{argsz: sizeOf[attachIOMMUFD](), target: target}
	_, err := ioctlPtr(fd, reqAttachIOMMUFD, &a)
	return err
}

func (f iommufdFile) detach(fd int) error {
	d := detachIOMMUFD{argsz: sizeOf[detachIOMMUFD]()}
	_, err := ioctlPtr(fd, reqDetachIOMMUFD, &d)
	return err
}

func (f iommufdFile) newIOAS() (uint32, error) {
	a := ioasAlloc{size: sizeOf[ioasAlloc]()}
	_, err := ioctlPtr(int(f), reqIOASAlloc, &a)
	return a.ioas, err
}

func (f iommufdFile) newTable(device, ioas uint32) (uint32, error) {
	a := hwptAlloc{size: sizeOf[hwptAlloc](), flags: hwptDirtyTracking, device: device, parent: ioas}
	_, err := ioctlPtr(int(f), reqHWPTAlloc, &a)
	return a.hwpt, err
}

func (f iommufdFile) destroy(object uint32) error {
	d := iommuDestroy{size: sizeOf[iommuDestroy](), id: object}
	_, err := ioctlPtr(int(f), reqIOMMUDestroy, &d)
	return err
}

func (f iommufdFile) ranges(ioas uint32, list []iovaRange) (int, error) {
	r := ioasRanges{size: sizeOf[ioasRanges](), ioas: ioas, count: uint32(len(list))}
	err := withAddress(list, func(at uint64) error {
		r.list = at
		_, err := ioctlPtr(int(f), reqIOASRanges, &r)
		return err
	})
	return int(r.count), err
}

func (f iommufdFile) mapDMA(ioas uint32, iova uint64, host []byte) error {
	m := ioasMap{size: sizeOf[ioasMap](), flags: ioasFixed | ioasWriteable | ioasReadable, ioas: ioas,
		vaddr: hostAddress(host), length: uint64(len(host)), iova: iova}
	_, err := ioctlPtr(int(f), reqIOASMap, &m)
	return err
}

func (f iommufdFile) unmapDMA(ioas uint32, iova, size uint64) error {
	u := ioasUnmap{size: sizeOf[ioasUnmap](), ioas: ioas, iova: iova, length: size}
	_, err := ioctlPtr(int(f), reqIOASUnmap, &u)
	return err
}

// notesWrites is false also where the kernel does not know the request, before Linux 6.6.
func (f iommufdFile) notesWrites(device uint32) bool {
	h := hwInfo{size: sizeOf[hwInfo](), device: device}
	_, err := ioctlPtr(int(f), reqGetHWInfo, &h)
	return err == nil && h.capabilities&hwDirtyTracking != 0
}

func (f iommufdFile) noteWrites(table uint32, on bool) error {
	s := hwptSetDirty{size: sizeOf[hwptSetDirty](), hwpt: table}
	if on {
		s.flags = hwptDirtyEnable
	}
	_, err := ioctlPtr(int(f), reqHWPTSetDirty, &s)
	return err
}

func (f iommufdFile) written(table uint32, r memory.Range, bitmap []uint64) error {
	return withAddress(bitmap, func(at uint64) error {
		g := hwptGetDirty{size: sizeOf[hwptGetDirty](), hwpt: table, iova: r.GPA, length: r.Size, pageSize: memory.PageSize, data: at}
		_, err := ioctlPtr(int(f), reqHWPTGetDirty, &g)
		return err
	})
}

func (f iommufdFile) close() error { return unix.Close(int(f)) }
