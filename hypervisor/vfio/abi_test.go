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
