package vfio

import "testing"

// The sizes of the structures as linux/vfio.h has them on x86-64; the kernel checks argsz against them.
func TestSizes(t *testing.T) {
	for name, s := range map[string]struct{ got, want uint32 }{
		"vfio_device_info": {sizeOf[deviceInfo](), 24}, "vfio_region_info": {sizeOf[regionInfo](), 32}, "vfio_irq_info": {sizeOf[irqInfo](), 16},
		"vfio_irq_set": {sizeOf[irqSetHeader](), 20}, "vfio_iommu_type1_dma_map": {sizeOf[dmaMap](), 32},
		"vfio_iommu_type1_dma_unmap": {sizeOf[dmaUnmap](), 24}, "vfio_iommu_type1_info": {sizeOf[iommuInfo](), 24}, "vfio_group_status": {sizeOf[groupStatus](), 8},
		"vfio_iommu_type1_dirty_bitmap": {sizeOf[dirtyPages](), 8}, "vfio_iommu_type1_dirty_bitmap_get": {sizeOf[dirtyBitmap](), 48},
	} {
		if s.got != s.want {
			t.Errorf("struct %s has %d bytes, want %d", name, s.got, s.want)
		}
	}
	for n, req := range map[int]int{0: reqGetAPIVersion, 1: reqCheckExtension, 2: reqSetIOMMU, 3: reqGroupStatus, 4: reqSetContainer, 6: reqGetDeviceFD,
		7: reqGetInfo, 8: reqGetRegionInfo, 9: reqGetIRQInfo, 10: reqSetIRQs, 11: reqReset, 12: reqIOMMUGetInfo, 13: reqIOMMUMapDMA, 14: reqIOMMUUnmapDMA, 17: reqIOMMUDirtyPages} {
		if want := ';'<<8 | 100 + n; req != want {
			t.Errorf("request %d is %#x, want %#x", n, req, want)
		}
	}
}

// The same of iommufd; the kernel takes structures that are longer than its own when the rest is 0, and those that have all
// that there was at first.
func TestSizesOfIOMMUFD(t *testing.T) {
	for name, s := range map[string]struct{ got, want uint32 }{
		"iommu_destroy": {sizeOf[iommuDestroy](), 8}, "iommu_ioas_alloc": {sizeOf[ioasAlloc](), 12}, "iommu_iova_range": {sizeOf[iovaRange](), 16},
		"iommu_ioas_iova_ranges": {sizeOf[ioasRanges](), 32}, "iommu_ioas_map": {sizeOf[ioasMap](), 40}, "iommu_ioas_unmap": {sizeOf[ioasUnmap](), 24},
		"iommu_hwpt_alloc up to data_uptr": {sizeOf[hwptAlloc](), 40}, "iommu_hw_info": {sizeOf[hwInfo](), 40},
		"iommu_hwpt_set_dirty_tracking": {sizeOf[hwptSetDirty](), 16}, "iommu_hwpt_get_dirty_bitmap": {sizeOf[hwptGetDirty](), 48},
		"vfio_device_bind_iommufd": {sizeOf[bindIOMMUFD](), 16}, "vfio_device_attach_iommufd_pt": {sizeOf[attachIOMMUFD](), 12},
		"vfio_device_detach_iommufd_pt": {sizeOf[detachIOMMUFD](), 8},
	} {
		if s.got != s.want {
			t.Errorf("struct %s has %d bytes, want %d", name, s.got, s.want)
		}
	}
	for n, req := range map[int]int{0x80: reqIOMMUDestroy, 0x81: reqIOASAlloc, 0x84: reqIOASRanges, 0x85: reqIOASMap, 0x86: reqIOASUnmap,
		0x89: reqHWPTAlloc, 0x8a: reqGetHWInfo, 0x8b: reqHWPTSetDirty, 0x8c: reqHWPTGetDirty,
		100 + 18: reqBindIOMMUFD, 100 + 19: reqAttachIOMMUFD, 100 + 20: reqDetachIOMMUFD} {
		if want := ';'<<8 | n; req != want {
			t.Errorf("request %#x is %#x, want %#x", n, req, want)
		}
	}
}
