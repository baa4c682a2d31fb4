// Package net is the virtio network device (virtio 1.3, 5.1) on a Linux tap with vnet headers, or with its rings handed
// to vhost-net or to another process (package vhostuser).
//
// Each queue pair has one worker, on a thread of its own or, where CPUs are few, shared with others (thread.go). It moves packets
// between the tap queue and guest memory with one system call a packet, straight from and to the guest's buffers: the virtio header is the tap's vnet header, so
// checksums and segments pass through unseen. What the header has beyond that the worker writes behind it, and hashes of
// packets too where the driver wants them (hash.go). The thread sleeps in epoll, edge-triggered on the tap and on the
// doorbells, which need no read that way. The control queue is an ordinary goroutine.
//
// A guest that gives no receive buffers makes its own tap queue drop. A broken ring stops the device until the driver
// resets it; a broken packet is dropped and counted.
//
// Which queue a packet takes is the kernel's choice, or that of a BPF program, which the driver configures (rss.go).
//
// In place of a tap there can be a stream socket to a process that has the guest's network (stream.go): frames behind their
// lengths, without offloads.
//
// The package leaves out filtering by MAC and VLAN (the guest's stack does it, as with vhost; a host that has to know is told:
// filter.go), announcements, and making taps (virtd does). Start reading at New, then thread and worker.
package net
