package vfio

// Request numbers of linux/vfio.h: _IO(';', 100 + n). Structures carry their size in their first field.
const (
	reqGetAPIVersion   = 0x3b64
	reqCheckExtension  = 0x3b65
	reqSetIOMMU        = 0x3b66
	reqGroupStatus     = 0x3b67
	reqSetContainer    = 0x3b68
	reqGetDeviceFD     = 0x3b6a
	reqGetInfo         = 0x3b6b
	reqGetRegionInfo   = 0x3b6c
	reqGetIRQInfo      = 0x3b6d
	reqSetIRQs         = 0x3b6e
	reqReset           = 0x3b6f
	reqIOMMUGetInfo    = 0x3b70
	reqIOMMUMapDMA     = 0x3b71
	reqIOMMUUnmapDMA   = 0x3b72
	reqIOMMUDirtyPages = 0x3b75 // of a container; of a device it is VFIO_DEVICE_FEATURE
	apiVersion         = 0
	type1v2IOMMU       = 3 // VFIO_TYPE1v2_IOMMU
	groupViable        = 1 << 0
	deviceFlagReset    = 1 << 0
	deviceFlagPCI      = 1 << 1
	regionRead         = 1 << 0
	regionWrite        = 1 << 1
	regionMmap         = 1 << 2
	regionCaps         = 1 << 3
	capSparseMmap      = 1 // VFIO_REGION_INFO_CAP_SPARSE_MMAP
	irqEventfd         = 1 << 0
	setDataNone        = 1 << 0
	setDataEventfd     = 1 << 2
	setActionUnmask    = 1 << 4
	setActionTrigger   = 1 << 5
	dmaRead            = 1 << 0
	dmaWrite           = 1 << 1
	romRegion          = 6 // VFIO_PCI_ROM_REGION_INDEX
	configRegion       = 7 // VFIO_PCI_CONFIG_REGION_INDEX; BARs are 0 to 5
	irqINTx            = 0
	irqMSI             = 1
	irqMSIX            = 2
	iommuInfoCaps      = 1 << 1
	capIOVARange       = 1 // VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE
	capMigration       = 2 // VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION
	dirtyStart         = 1 << 0
	dirtyStop          = 1 << 1
	dirtyGet           = 1 << 2
	maxInfo            = 64 << 10
	maxInterruptsOfMSI = 32
)

// deviceInfo is struct vfio_device_info.
type deviceInfo struct {
	argsz, flags, regions, irqs, capOffset, pad uint32
}

// regionInfo is struct vfio_region_info.
type regionInfo struct {
	argsz, flags, index, capOffset uint32
	size, offset                   uint64
}

// irqInfo is struct vfio_irq_info.
type irqInfo struct{ argsz, flags, index, count uint32 }

// irqSetHeader is struct vfio_irq_set without its data.
type irqSetHeader struct{ argsz, flags, index, start, count uint32 }

// iommuInfo is struct vfio_iommu_type1_info.
type iommuInfo struct {
	argsz, flags   uint32
	pageSizes      uint64
	capOffset, pad uint32
}

// dmaMap is struct vfio_iommu_type1_dma_map.
type dmaMap struct {
	argsz, flags uint32
	vaddr, iova  uint64
	size         uint64
}

// dmaUnmap is struct vfio_iommu_type1_dma_unmap.
type dmaUnmap struct {
	argsz, flags uint32
	iova, size   uint64
}

// groupStatus is struct vfio_group_status.
type groupStatus struct{ argsz, flags uint32 }

// dirtyPages is struct vfio_iommu_type1_dirty_bitmap without its data.
type dirtyPages struct{ argsz, flags uint32 }

// dirtyBitmap is struct vfio_iommu_type1_dirty_bitmap with struct vfio_iommu_type1_dirty_bitmap_get as its data: the bitmap
// has size bytes at data.
type dirtyBitmap struct {
	argsz, flags uint32
	iova, length uint64
	pageSize     uint64
	size, data   uint64
}
