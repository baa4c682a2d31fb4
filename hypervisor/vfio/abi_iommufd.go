package vfio

// Request numbers of linux/iommufd.h, _IO(';', 0x80 + n), and of linux/vfio.h for devices of an iommufd. Structures carry their
// size in their first field.
const (
	reqIOMMUDestroy = 0x3b80
	reqIOASAlloc    = 0x3b81
	reqIOASRanges   = 0x3b84
	reqIOASMap      = 0x3b85
	reqIOASUnmap    = 0x3b86
	reqHWPTAlloc    = 0x3b89
	reqGetHWInfo    = 0x3b8a
	reqHWPTSetDirty = 0x3b8b
	reqHWPTGetDirty = 0x3b8c

	reqBindIOMMUFD   = 0x3b76
	reqAttachIOMMUFD = 0x3b77
	reqDetachIOMMUFD = 0x3b78

	ioasFixed         = 1 << 0 // IOMMU_IOAS_MAP_FIXED_IOVA
	ioasWriteable     = 1 << 1
	ioasReadable      = 1 << 2
	hwptDirtyTracking = 1 << 1 // IOMMU_HWPT_ALLOC_DIRTY_TRACKING
	hwptDirtyEnable   = 1 << 0 // IOMMU_HWPT_DIRTY_TRACKING_ENABLE
	hwDirtyTracking   = 1 << 0 // IOMMU_HW_CAP_DIRTY_TRACKING
)

// iommuDestroy is struct iommu_destroy.
type iommuDestroy struct{ size, id uint32 }

// ioasAlloc is struct iommu_ioas_alloc.
type ioasAlloc struct{ size, flags, ioas uint32 }

// iovaRange is struct iommu_iova_range; struct vfio_iova_range looks the same.
type iovaRange struct{ first, last uint64 }

// ioasRanges is struct iommu_ioas_iova_ranges: list is the address of count of them.
type ioasRanges struct {
	size, ioas, count, reserved uint32
	list, alignment             uint64
}

// ioasMap is struct iommu_ioas_map.
type ioasMap struct {
	size, flags, ioas, reserved uint32
	vaddr, length, iova         uint64
}

// ioasUnmap is struct iommu_ioas_unmap.
type ioasUnmap struct {
	size, ioas   uint32
	iova, length uint64
}

// hwptAlloc is struct iommu_hwpt_alloc, as it was when it came with Linux 6.6: what was added since must be 0.
type hwptAlloc struct {
	size, flags, device, parent, hwpt, reserved uint32
	dataType, dataLength                        uint32
	data                                        uint64
}

// hwInfo is struct iommu_hw_info. The kernel fills in as much as it knows.
type hwInfo struct {
	size, flags, device, dataLength uint32
	data                            uint64
	dataType, reserved              uint32
	capabilities                    uint64
}

// hwptSetDirty is struct iommu_hwpt_set_dirty_tracking.
type hwptSetDirty struct{ size, flags, hwpt, reserved uint32 }

// hwptGetDirty is struct iommu_hwpt_get_dirty_bitmap.
type hwptGetDirty struct {
	size, hwpt, flags, reserved  uint32
	iova, length, pageSize, data uint64
}

// bindIOMMUFD is struct vfio_device_bind_iommufd.
type bindIOMMUFD struct {
	argsz, flags uint32
	iommufd      int32
	device       uint32
}

// attachIOMMUFD is struct vfio_device_attach_iommufd_pt.
type attachIOMMUFD struct{ argsz, flags, target uint32 }

// detachIOMMUFD is struct vfio_device_detach_iommufd_pt.
type detachIOMMUFD struct{ argsz, flags uint32 }
