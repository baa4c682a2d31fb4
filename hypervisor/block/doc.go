// Package block is the disk images behind block devices: files and block devices, raw or of format qcow2 (package qcow2).
//
// An Image is shared by all queues of a device. Each queue has a Loop: a thread of its own, made before the engine
// confines itself, that waits for the guest's doorbell and for the completion of requests in one system call, and runs
// requests through io_uring. Where the host has no io_uring (5.13 or newer is needed, and it may be disabled) the same
// Loop hands requests to a pool of threads instead and Loop.Mode says so.
//
// Requests that do not wait for a device are done at once on the loop's thread, because handing them to the kernel's
// workers costs more than the copy: all of them on tmpfs, and buffered writes elsewhere.
//
// Data that a format has as it is in one piece of a file goes the same way as that of a raw image. What needs more, such as
// allocation, is done step by step by a pool of threads that each loop of such an image has.
//
// A Throttle holds requests of images to limits. Those that may not go yet stay with their loop, which waits for their time
// together with everything else.
//
// The package leaves out what a guest may ask for (package virtio/blk checks it) and locking, which is virtd's. Start reading at Image, then Loop.
package block
