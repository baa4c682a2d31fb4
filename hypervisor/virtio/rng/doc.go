// Package rng is the virtio entropy device (virtio 1.2, 5.4): it fills the guest's buffers from getrandom(2) or from a
// file, as fast as a limit allows.
//
// A request is never larger for the host than 64 KiB, whatever the guest offers. The package leaves out the EGD
// protocol. Start reading at Device.
package rng
