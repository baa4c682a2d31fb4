// Package rss is receive-side scaling of virtio network devices (virtio 1.2, 5.1.6.5.7) as far as it is numbers: what a driver
// asks for, and how that lies in the memory that the BPF program of a tap reads it from. The program is elsewhere
// (driver/kvm/steering): an engine is given it as a descriptor. Start reading at Config.
//
// Hashes over the addresses in IPv6 extension headers (VIRTIO_NET_HASH_TYPE_IP_EX and its kin) are left out.
package rss
