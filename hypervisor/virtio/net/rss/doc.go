// Package rss is receive-side scaling and hash reporting of virtio network devices (virtio 1.3, 5.1.6.5.7 and 5.1.6.4.3) as far as
// they are numbers: what a driver asks for, how that lies in the memory that the BPF program of a tap reads it from, and the hash
// of a packet. The program is elsewhere (driver/kvm/steering): an engine is given it as a descriptor. Start reading at Config for
// the one, and at Hasher for the other.
//
// Hashes over the addresses in IPv6 extension headers (VIRTIO_NET_HASH_TYPE_IP_EX and its kin) are left out.
package rss
