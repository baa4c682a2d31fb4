// Package virtio is the driver-facing half of every virtio device: split virtqueues (virtio 1.2, 2.7) and the PCI
// transport (4.1, modern only). What a device does with its queues is in the packages below, one device each: blk, net,
// balloon, console, rng.
//
// A queue's configuration is frozen when the driver enables it; what a driver writes later is ignored until a device
// reset. Descriptors are copied once and then checked, because the driver may change them at any time.
//
// The package leaves out packed rings and the legacy interface. Start reading at Device, then Queue.
package virtio
