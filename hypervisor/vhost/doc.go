// Package vhost hands virtqueues to the kernel: the vhost character device protocol (linux/vhost.h) and its network back
// end, /dev/vhost-net, on a tap queue. The kernel then takes kicks from the doorbell's eventfd, moves packets on a thread
// of its own and raises interrupts through the queue's irqfd; the engine is not in the path.
//
// The package leaves out vhost-user, which is package vhostuser, vsock and the IOTLB. Packed rings need a kernel that says it
// has them (VHOST_GET_FEATURES); Linux' own does not. Start reading at Net.
package vhost
