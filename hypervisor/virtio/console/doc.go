// Package console is the virtio console device with one port (virtio 1.2, 5.3), hvc0 in a Linux guest.
//
// Its host side is a Host, which chardev.Port is; the device is that port's front end. Output waits in the guest's
// buffers while the host side is slow; input waits at the host while the guest offers no buffer. The package leaves out
// multiple ports and their control queues. Start reading at Device.
package console
