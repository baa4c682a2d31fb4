package qcow2

import (
	"bytes"
	"compress/flate"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// inflated is the compressed cluster that was read last: guests read clusters piece by piece.
type inflated struct {
	mu    sync.Mutex
	entry uint64 // 0 for none
	at    int64  // the guest's cluster
	data  []byte
	raw   []byte
	zstd  *zstd.Decoder
}

// packedRange is where a compressed cluster is, and how many bytes it can have at most: whole sectors of 512 bytes, of
// which the first may have begun before.
func (q *Image) packedRange(e uint64) (host, n int64) {
	x := 62 - (q.ClusterBits - 8)
	host = int64(e & (1<<x - 1))
	sectors := int64(e>>x&(1<<(q.ClusterBits-8)-1)) + 1
	return host, sectors*512 - host&511
}

// readPacked reads from a compressed cluster.
func (q *Image) readPacked(p []byte, off int64, e uint64) error {
	c := &q.inflated
	c.mu.Lock()
	defer c.mu.Unlock()
	cluster := off >> q.ClusterBits
	if c.entry != e || c.at != cluster {
		c.entry = 0
		if err := q.inflate(c, e); err != nil {
			return err
		}
		c.entry, c.at = e, cluster
	}
	copy(p, c.data[off&(q.ClusterSize()-1):])
	return nil
}

// forgetInflated is called when a compressed cluster is given back.
func (q *Image) forgetInflated() {
	q.inflated.mu.Lock()
	q.inflated.entry = 0
	q.inflated.mu.Unlock()
}

func (q *Image) inflate(c *inflated, e uint64) error {
	host, n := q.packedRange(e)
	if c.data == nil {
		c.data, c.raw = make([]byte, q.ClusterSize()), make([]byte, 2*q.ClusterSize())
	}
	if host < q.ClusterSize() || host >= maxSize || n > int64(len(c.raw)) {
		return corrupt("a compressed cluster of %d bytes at %#x", n, host)
	}
	raw := c.raw[:n]
	if err := q.file.Read(raw, host); err != nil {
		return err
	}
	if q.Compression == Zstd {
		return c.unzstd(raw)
	}
	r := flate.NewReader(bytes.NewReader(raw))
	if _, err := io.ReadFull(r, c.data); err != nil {
		return corrupt("a compressed cluster at %#x: %v", host, err)
	}
	return nil
}

// maxZstdWindow bounds what a frame may make its decoder keep: QEMU's frames need no more than a cluster.
const maxZstdWindow = 8 << 20

func (c *inflated) unzstd(raw []byte) error {
	if c.zstd == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow),
			zstd.WithDecoderLowmem(true), zstd.IgnoreChecksum(false))
		if err != nil {
			return err
		}
		c.zstd = d
	}
	if err := c.zstd.Reset(bytes.NewReader(raw)); err != nil {
		return corrupt("a compressed cluster: %v", err)
	}
	if _, err := io.ReadFull(c.zstd, c.data); err != nil {
		return corrupt("a compressed cluster: %v", err)
	}
	return nil
}
