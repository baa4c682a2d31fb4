package gateway

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// guard stands between the engine and the library, which believes what it reads: it takes any length, reads the addresses of a
// frame without looking how long it is, and remembers every source address. The guard passes on whole frames with an
// Ethernet header, of so many source addresses.
type guard struct {
	net.Conn
	buf       []byte // a frame with its length, as far as it was not passed on
	frame     [prefix + maxFrame]byte
	addresses map[[6]byte]bool
	over      atomic.Bool
}

// Bounds of what a guest may send.
const (
	prefix       = 4
	minFrame     = 14
	maxFrame     = 65535 + 14 + 8 // 64 KiB of IP, with two VLAN tags
	maxAddresses = 64
)

var errFraming = errors.New("a frame of impossible length came from the engine")

func newGuard(c net.Conn) *guard { return &guard{Conn: c, addresses: map[[6]byte]bool{}} }

// ended reports whether the engine closed the socket.
func (g *guard) ended() bool { return g.over.Load() }

// Read implements net.Conn. One goroutine reads.
func (g *guard) Read(p []byte) (int, error) {
	for len(g.buf) == 0 {
		if err := g.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, g.buf)
	g.buf = g.buf[n:]
	return n, nil
}

// fill reads one frame, and leaves buf empty when it is not passed on.
func (g *guard) fill() error {
	if _, err := io.ReadFull(g.Conn, g.frame[:prefix]); err != nil {
		g.over.Store(true)
		return err
	}
	n := binary.BigEndian.Uint32(g.frame[:])
	if n > maxFrame {
		return errFraming
	}
	if _, err := io.ReadFull(g.Conn, g.frame[prefix:prefix+n]); err != nil {
		g.over.Store(true)
		return err
	}
	if n < minFrame {
		return nil
	}
	source := [6]byte(g.frame[prefix+6 : prefix+12])
	if source[0]&1 != 0 || !g.addresses[source] && len(g.addresses) >= maxAddresses {
		return nil
	}
	g.addresses[source] = true
	g.buf = g.frame[:prefix+n]
	return nil
}
