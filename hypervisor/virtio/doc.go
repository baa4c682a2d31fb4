// Package virtio is the driver-facing half of every virtio device: virtqueues, split (virtio 1.2, 2.7) and packed
// (2.8), and the PCI transport (4.1, modern only). What a device does with its queues is in the packages below, one device
// each: blk, net, balloon, console, input, rng. It does not see what kind a queue's ring is.
//
// A queue's configuration is frozen when the driver enables it; what a driver writes later is ignored until a device
// reset. Descriptors are copied once and then checked, because the driver may change them at any time.
//
// The package leaves out the legacy interface, the in-order features and notification data. Start reading at Device, then
// Queue, whose rings are in split.go and packed.go.
package virtio
