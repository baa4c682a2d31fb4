package rss

import (
	"encoding/binary"
	"fmt"
)

// Limits of a Config. A device may not have less (virtio 1.2, 5.1.4.1).
const (
	KeySize  = 40  // bytes of a key
	MaxTable = 128 // entries of a table
)

// InputSize is the longest input of a hash in bytes: two IPv6 addresses and two ports.
const InputSize = 36

// Types of hashes (virtio 1.2, 5.1.6.4.3.1), and those that there are here.
const (
	IPv4  uint32 = 1 << 0 // VIRTIO_NET_HASH_TYPE_IPv4
	TCPv4 uint32 = 1 << 1 // VIRTIO_NET_HASH_TYPE_TCPv4
	UDPv4 uint32 = 1 << 2 // VIRTIO_NET_HASH_TYPE_UDPv4
	IPv6  uint32 = 1 << 3 // VIRTIO_NET_HASH_TYPE_IPv6
	TCPv6 uint32 = 1 << 4 // VIRTIO_NET_HASH_TYPE_TCPv6
	UDPv6 uint32 = 1 << 5 // VIRTIO_NET_HASH_TYPE_UDPv6

	Supported = IPv4 | TCPv4 | UDPv4 | IPv6 | TCPv6 | UDPv6
)

// Config is what a driver chose by VIRTIO_NET_CTRL_MQ_RSS_CONFIG. It is part of saved states.
type Config struct {
	Types uint32 `json:"types"` // of the packets that are hashed
	// Unclassified is the receive queue, counted from 0, of packets that are not hashed; Table has those of the others, by
	// the lowest bits of the hash.
	Unclassified uint16   `json:"unclassified"`
	Table        []uint16 `json:"table"`
	MaxTx        uint16   `json:"maxTx"` // transmit queues that the driver uses
	// Key is that of the Toeplitz hash. A driver's shorter one has zeros behind it.
	Key [KeySize]byte `json:"key"`
}

// Check refuses a Config that a device of so many queue pairs cannot execute.
func (c *Config) Check(pairs int) error {
	if n := len(c.Table); n == 0 || n > MaxTable || n&(n-1) != 0 {
		return fmt.Errorf("an indirection table of %d entries: a power of two up to %d is possible", n, MaxTable)
	}
	if c.Types&^Supported != 0 {
		return fmt.Errorf("hash types %#x are not supported", c.Types&^Supported)
	}
	if n := c.Pairs(); c.MaxTx < 1 || n > pairs {
		return fmt.Errorf("%d transmit queues, and queue pair %d in the indirection table, of a device of %d queue pairs", c.MaxTx, n-1, pairs)
	}
	return nil
}

// Hash is how the driver wants hashes calculated, those by which queues are chosen as well as those that are reported to it.
func (c *Config) Hash() Hash { return Hash{Types: c.Types, Key: c.Key} }

// Pairs is how many queue pairs must work.
func (c *Config) Pairs() int {
	n := max(int(c.MaxTx), int(c.Unclassified)+1)
	for _, q := range c.Table {
		n = max(n, int(q)+1)
	}
	return n
}

// Where the program finds what in the one value of its map. Numbers are in the host's byte order.
const (
	AtTypes        = 0                    // 32 bits
	AtMask         = 4                    // 32 bits: entries of the table, less 1
	AtUnclassified = 8                    // 32 bits
	AtTable        = 16                   // MaxTable of 16 bits
	AtHashes       = AtTable + 2*MaxTable // for each byte of the input 256 of 32 bits: what that byte adds to the hash
	MapSize        = AtHashes + 4*256*InputSize
)

// Store writes c to the program's map, which has at least MapSize bytes. A program that runs at the same time may take a part of
// it for a packet or two: that concerns only to which of its queues a guest gets them.
func (c *Config) Store(m []byte) {
	order := binary.NativeEndian
	for i, q := range c.Table {
		order.PutUint16(m[AtTable+2*i:], q)
	}
	var row [256]uint32
	for at := range InputSize {
		addends(&c.Key, at, &row)
		for value, sum := range row {
			order.PutUint32(m[AtHashes+4*(256*at+value):], sum)
		}
	}
	order.PutUint32(m[AtMask:], uint32(len(c.Table)-1))
	order.PutUint32(m[AtUnclassified:], uint32(c.Unclassified))
	order.PutUint32(m[AtTypes:], c.Types)
}
