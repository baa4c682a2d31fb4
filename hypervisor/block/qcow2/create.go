package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
)

// Settings describe an image to be made. Zero values are the defaults in brackets, which are QEMU's.
type Settings struct {
	Version       int   // [3]
	Size          int64 // bytes, whole sectors
	ClusterSize   int64 // [64 KiB], a power of two from 512 bytes to 2 MiB
	RefcountBits  int   // [16], a power of two to 64; 16 with version 2
	BackingFile   string
	BackingFormat string
	LazyRefcounts bool // version 3
	ExtendedL2    bool // version 3
}

func (s *Settings) complete() error {
	if s.Version == 0 {
		s.Version = 3
	}
	if s.ClusterSize == 0 {
		s.ClusterSize = 64 << 10
	}
	if s.RefcountBits == 0 {
		s.RefcountBits = 16
	}
	n, r := bits.TrailingZeros64(uint64(s.ClusterSize)), s.RefcountBits
	switch {
	case s.Version != 2 && s.Version != 3:
		return fmt.Errorf("there is no version %d of qcow2", s.Version)
	case s.Size < 0 || s.Size%512 != 0 || s.Size > maxSize:
		return fmt.Errorf("an image of %d bytes cannot be", s.Size)
	case s.ClusterSize != 1<<n || n < minClusterBits || n > maxClusterBits:
		return fmt.Errorf("cluster size %d is not a power of two from 512 bytes to 2 MiB", s.ClusterSize)
	case r < 1 || r > 64 || r&(r-1) != 0 || r != 16 && s.Version < 3:
		return fmt.Errorf("refcounts of %d bits cannot be", r)
	case s.Version < 3 && (s.LazyRefcounts || s.ExtendedL2):
		return fmt.Errorf("lazy refcounts and extended L2 entries need version 3 (compat 1.1)")
	case s.ExtendedL2 && n < minExtendedBits:
		return fmt.Errorf("extended L2 entries need clusters of 16 KiB or more")
	}
	return nil
}

// Create makes an image in an empty file. It is durable when Create returns.
func Create(f File, s Settings) error {
	if err := s.complete(); err != nil {
		return err
	}
	h := Header{Version: s.Version, ClusterBits: bits.TrailingZeros64(uint64(s.ClusterSize)), Size: s.Size,
		BackingFile: s.BackingFile, BackingFormat: s.BackingFormat, ExtendedL2: s.ExtendedL2, LazyRefcounts: s.LazyRefcounts,
		RefcountBits: s.RefcountBits}
	if s.ExtendedL2 {
		h.incompat |= incompatExtendedL2
	}
	h.l1Entries = divUp(s.Size, h.l2Entries()<<h.ClusterBits)
	if h.l1Entries*8 > maxL1Bytes {
		return fmt.Errorf("an image of %d bytes needs clusters larger than %d bytes", s.Size, s.ClusterSize)
	}
	l1Clusters := max(divUp(h.l1Entries*8, s.ClusterSize), 1)
	table, blocks := int64(1), int64(1)
	for h.perBlock()*blocks < 1+table+blocks+l1Clusters {
		blocks++
		table = divUp(blocks*8, s.ClusterSize)
	}
	h.refTableOff, h.refTableEntries = s.ClusterSize, table*s.ClusterSize/8
	h.l1Off = (1 + table + blocks) * s.ClusterSize
	head, err := h.encode()
	if err != nil {
		return err
	}
	counts := make([]byte, blocks*s.ClusterSize)
	for i := range 1 + table + blocks + l1Clusters {
		setRef(counts, i, h.RefcountBits, 1)
	}
	tables := make([]byte, table*s.ClusterSize)
	for i := range blocks {
		binary.BigEndian.PutUint64(tables[8*i:], uint64((1+table+i)*s.ClusterSize))
	}
	for _, w := range []struct {
		b  []byte
		at int64
	}{{make([]byte, l1Clusters*s.ClusterSize), h.l1Off}, {counts, (1 + table) * s.ClusterSize}, {tables, s.ClusterSize}, {head, 0}} {
		if err := f.Write(meat(w.b, f.Grows()), w.at); err != nil {
			return err
		}
	}
	// What was not written of the last table reads as zeroes once the file is long enough.
	if end := h.l1Off + l1Clusters*s.ClusterSize; f.Grows() {
		if err := f.Write(make([]byte, 512), end-512); err != nil {
			return err
		}
	}
	return f.Sync()
}

// meat is what must be written of a table in a new file: not the zeroes at its end.
func meat(b []byte, grows bool) []byte {
	n := len(b)
	for grows && n > 512 && len(bytes.TrimLeft(b[n-512:n], "\x00")) == 0 {
		n -= 512
	}
	return b[:n]
}

func makeL1(n int64) []atomic.Uint64 { return make([]atomic.Uint64, n) }

// Preallocate gives every cluster of a new image a place in the file, which takes up no space yet where the file can have
// holes. The image must not have a backing file.
func (q *Image) Preallocate() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.writable(); err != nil {
		return err
	}
	if !q.file.Grows() {
		return &UnsupportedError{"a block device, on which metadata cannot be preallocated"}
	}
	if q.opts.Backing != nil {
		return &UnsupportedError{"a backing file, with which metadata cannot be preallocated"}
	}
	for off := int64(0); off < q.Size(); {
		pg, i, err := q.ownEntry(off)
		if err != nil {
			return err
		}
		k := min(divUp(q.Size()-off, q.ClusterSize()), q.perPage-i)
		if pg.words[i*q.stride].Load() != 0 {
			return fmt.Errorf("preallocate metadata: the image is in use already")
		}
		host, got, err := q.allocate(k)
		if err != nil {
			return err
		}
		// Nothing was ever written there, so that it reads as zeroes once the file is long enough.
		if err := q.writeFile([]byte{0}, host+got<<q.ClusterBits-1); err != nil {
			return q.unallocate(host, got, err)
		}
		for c := range got {
			q.setNew(pg, i+c, host+c<<q.ClusterBits, 0, q.ClusterSize())
		}
		q.entryChanged(pg)
		off += got << q.ClusterBits
	}
	return q.flush()
}
