package rss

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Hash is how a driver wants hashes of packets calculated: what is hashed, and with which key. It is part of saved states.
type Hash struct {
	Types uint32        `json:"types"`
	Key   [KeySize]byte `json:"key"` // a driver's shorter one has zeros behind it
}

// Check refuses types of hashes that there are not.
func (h *Hash) Check() error {
	if h.Types&^Supported != 0 {
		return fmt.Errorf("hash types %#x are not supported", h.Types&^Supported)
	}
	return nil
}

// Hasher calculates hashes in the way of one Hash, which is turned into a table once: a byte of the input is then one look into
// it. It never changes, so any number of goroutines may use it.
type Hasher struct {
	hash Hash
	rows [InputSize][256]uint32
}

// NewHasher makes the Hasher of h, which Check takes.
func NewHasher(h Hash) *Hasher {
	t := &Hasher{hash: h}
	for at := range t.rows {
		addends(&h.Key, at, &t.rows[at])
	}
	return t
}

// Hash returns what the Hasher was made of.
func (t *Hasher) Hash() Hash { return t.hash }

// add returns sum with the bytes of p, which stand at the given place of the input.
func (t *Hasher) add(sum uint32, at int, p []byte) uint32 {
	rows := t.rows[at : at+len(p)]
	for i, b := range p {
		sum ^= rows[i][b]
	}
	return sum
}

// addends fills row with what each value of the byte at a place of the input adds to the Toeplitz hash.
func addends(key *[KeySize]byte, at int, row *[256]uint32) {
	var windows [8]uint32 // by the number of the bit in the value
	for bit := range windows {
		windows[bit] = window(key, 8*at+7-bit)
	}
	row[0] = 0
	for value := 1; value < len(row); value++ {
		row[value] = row[value&(value-1)] ^ windows[bits.TrailingZeros8(uint8(value))]
	}
}

// window is what a bit of the input adds to the hash: the 32 bits of the key from the same place on.
func window(key *[KeySize]byte, bit int) uint32 {
	var five [8]byte
	copy(five[3:], key[bit/8:bit/8+5])
	return uint32(binary.BigEndian.Uint64(five[:]) >> (8 - bit%8))
}
