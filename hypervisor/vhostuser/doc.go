// Package vhostuser hands virtqueues to another process: the front end of the vhost-user protocol (QEMU's
// docs/interop/vhost-user). The back end maps guest RAM, takes kicks from the doorbells' eventfds and raises interrupts
// through the queues' irqfds; the engine is not in the path.
//
// A back end may come and go. While there is none the rings stand still, and the next one serves on where the last one was
// when it stopped, also when it was killed: the queues' positions are read from the rings, and what was in flight comes
// from the buffer in which back ends keep account (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD), from the order in which packets
// come back, or from an account of ours (virtio.Follower).
//
// A back end reaches all guest RAM and can do to the guest what it likes. What it says on its socket is checked all the
// same, and no answer, or a wrong one, ends the connection: the engine goes on, and no vCPU waits longer than three seconds.
//
// Where a back end that was killed stood in a packed ring cannot be told from the ring, so the device needs a reset then; one
// that stops tells.
//
// A back end that can (VHOST_F_LOG_ALL) notes which pages it writes, in shared memory, while somebody wants to know; ReadLog
// has them, also when it was killed.
//
// The package leaves out the IOTLB, the back end's own channel and postcopy. It never connects to a path: descriptors of connections and of listening sockets are handed in. Start reading at
// Backend.
package vhostuser
