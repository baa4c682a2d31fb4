// Package vfio gives a guest a PCI function of the host: through Linux's VFIO container and group interface
// (linux/vfio.h, Documentation/driver-api/vfio.rst), with descriptors that virtd opened.
//
// The function's memory BARs are the guest's directly, but for the pages of the MSI-X table; its interrupts go from the
// kernel to the guest by irqfd, those of its pin (INTx) and back by the resampling kind; its DMA goes through the IOMMU to
// guest RAM and nowhere else. Configuration space is the engine's for the header, the BARs, MSI and MSI-X, and the device's
// for the other capabilities, as vfio-pci filters them. Errors that the device reports, and requests of the host to have it
// back, are told.
//
// Not there: ROM BARs, peer-to-peer maps, dirty tracking, iommufd. A guest with such a function cannot be saved.
//
// Start reading at Function.
package vfio
