// Package blk is the virtio block device (virtio 1.2, 5.2) on an image of package block.
//
// Each virtqueue has a thread with an event loop of its own (block.Loop). A request is copied from its descriptors,
// checked, handed to the image and answered without an allocation. What a driver asks for beyond the disk's end, or of a
// read-only disk, is an error in the request's status; a chain that cannot carry a status stops the device.
//
// The package leaves out zoned devices, secure erase, lifetime information and the legacy SCSI passthrough. Start
// reading at Device.
package blk
