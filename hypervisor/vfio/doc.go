// Package vfio gives a guest a PCI function of the host: through Linux's VFIO (linux/vfio.h,
// Documentation/driver-api/vfio.rst), with descriptors that virtd opened. The address space of its DMA is a Container: of VFIO,
// with IOMMU groups (type 1), or of iommufd, with devices (linux/iommufd.h, Documentation/userspace-api/iommufd.rst).
//
// The function's memory BARs are the guest's directly, but for the pages of the MSI-X table; its interrupts go from the
// kernel to the guest by irqfd, those of its pin (INTx) and back by the resampling kind; its DMA goes through the IOMMU to
// guest RAM, to what is mapped of BARs of the guest's functions where the hardware and the kernel can, and nowhere else. A
// function that the guest puts to sleep is out of everybody's reach. Its expansion ROM is read when the guest looks, or comes
// from a file. Configuration space is the engine's for the header, the BARs, MSI and MSI-X, and the device's for the other
// capabilities, as vfio-pci filters them. Errors that the device reports, and requests of the host to have it back, are told.
//
// Which pages of RAM devices write, the IOMMU tells where it can (Container.ReadDirty); where not, all pages that they reach
// count as written. The kernel's type 1 IOMMU cannot for PCI functions.
//
// Not there: the migration of a function's own state: a guest with one cannot be saved.
//
// Start reading at Function, and for DMA at Container.
package vfio
