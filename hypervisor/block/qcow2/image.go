package qcow2

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
)

// Memory bounds of an image, in bytes.
const (
	cacheL2       = 32 << 20 // maps 256 GiB with clusters of 64 KiB
	cacheRefs     = 4 << 20
	cacheBacking  = 8 << 20
	maxPage       = 64 << 10 // of a table that is read at once
	maxPendingRun = 1 << 14  // ranges waiting to be given back
)

// Options say how an image is used.
type Options struct {
	ReadOnly bool
	// Backing is what the header's backing file was opened as. It must be given if and only if the header names one.
	// The image does not close it.
	Backing Backing
	// Punch gives the space of discarded clusters back to the file system.
	Punch bool
}

// Image is an open image. Its methods may be called by many goroutines at once, but for Close, which is the last.
type Image struct {
	Header // of what does not change; Size is what size says

	file    File
	opts    Options
	size    atomic.Int64
	l1      atomic.Pointer[[]atomic.Uint64]
	l2      *cache
	epoch   atomic.Uint64
	refAt   [2]atomic.Int64 // where the refcount table begins and ends
	unsaved atomic.Bool     // metadata that Flush has to write
	bad     atomic.Bool     // corrupt: no more writes

	subSize  int64 // bytes of what an L2 entry's bits speak of: a subcluster, or a cluster
	perPage  int64 // L2 entries of a page
	stride   int64 // words of an L2 entry
	inflated inflated
	shared   *Reader // of calls that have none of their own

	mu       sync.Mutex // what follows, and every change of metadata
	readers  []*Reader
	refs     *cache
	refTable []int64 // offsets of refcount blocks
	refDirty map[int64]bool
	l1Dirty  map[int64]bool
	hint     int64 // no cluster before it is free
	top      int64 // nothing in the file at or beyond this offset was ever written
	pending  []span
	limbo    []span
	broken   error // a Sync failed: what is on disk is not known any more
}

// span is a range of clusters by number.
type span struct{ first, n int64 }

// Open opens an image. With ReadOnly nothing is written, not even to an image that was not closed.
func Open(f File, o Options) (*Image, error) {
	h, err := ReadHeader(f)
	if err != nil {
		return nil, err
	}
	if (h.BackingFile != "") != (o.Backing != nil) {
		return nil, fmt.Errorf("open qcow2 image: backing file '%s' in the header, and %t that one was opened", h.BackingFile, o.Backing != nil)
	}
	if !o.ReadOnly {
		switch {
		case h.Corrupt:
			return nil, corrupt("it is marked so, and can be opened for reading only until it is repaired")
		case h.Dirty:
			return nil, ErrDirty
		}
	}
	q := &Image{Header: *h, file: f, opts: o}
	q.size.Store(h.Size)
	q.setRefTable(h.refTableOff, h.refTableEntries)
	q.shared = &Reader{q: q}
	q.readers = []*Reader{q.shared}
	q.subSize, q.stride = h.ClusterSize(), 1
	if h.ExtendedL2 {
		q.subSize, q.stride = h.ClusterSize()/subclusters, 2
	}
	page := min(h.ClusterSize(), maxPage)
	q.perPage = page / 8 / q.stride
	limit := int64(cacheL2)
	if o.ReadOnly {
		limit = cacheBacking
	}
	q.l2 = newCache(f, page, h.l1Entries*h.ClusterSize(), limit)
	if err := q.readL1(); err != nil {
		return nil, err
	}
	if o.ReadOnly {
		return q, nil
	}
	return q, q.openForWriting(page)
}

func (q *Image) setRefTable(off, entries int64) {
	q.refTableOff, q.refTableEntries = off, entries
	q.refAt[0].Store(off)
	q.refAt[1].Store(off + entries*8)
}

func (q *Image) readL1() error {
	b := make([]byte, q.l1Entries*8)
	if err := q.file.Read(b, q.l1Off); err != nil {
		return fmt.Errorf("read the L1 table: %w", err)
	}
	l1 := makeL1(q.l1Entries)
	for i := range l1 {
		l1[i].Store(binary.BigEndian.Uint64(b[8*i:]))
	}
	q.l1.Store(&l1)
	return nil
}

func (q *Image) openForWriting(page int64) error {
	size, err := q.file.Size()
	if err != nil {
		return err
	}
	q.top = (size + q.ClusterSize() - 1) &^ (q.ClusterSize() - 1)
	b := make([]byte, q.refTableEntries*8)
	if err := q.file.Read(b, q.refTableOff); err != nil {
		return fmt.Errorf("read the refcount table: %w", err)
	}
	q.refTable = make([]int64, q.refTableEntries)
	for i := range q.refTable {
		off := binary.BigEndian.Uint64(b[8*i:])
		if off%uint64(q.ClusterSize()) != 0 || off > maxSize {
			return corrupt("refcount block %d is at %#x, where no cluster begins", i, off)
		}
		q.refTable[i] = int64(off)
	}
	q.refs = newCache(q.file, page, int64(len(q.refTable))*q.ClusterSize(), cacheRefs)
	q.refDirty, q.l1Dirty = map[int64]bool{}, map[int64]bool{}
	if q.autoclear == 0 {
		return nil
	}
	// What these bits promise (bitmaps in step with the data) we do not keep.
	q.autoclear = 0
	if err := q.file.Write(make([]byte, 8), fieldAuto); err != nil {
		return fmt.Errorf("clear the autoclear features: %w", err)
	}
	return q.file.Sync()
}

// Size implements Backing.
func (q *Image) Size() int64 { return q.size.Load() }

// Unsaved tells whether Flush has metadata to write: without, syncing the file is as good.
func (q *Image) Unsaved() bool { return q.unsaved.Load() }

// Close writes what is not written yet. Nobody may use an extent from Map any more.
func (q *Image) Close() error {
	if q.opts.ReadOnly {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.flush(); err != nil {
		return err
	}
	q.giveBack()
	if _, err := q.refs.writeBack(); err != nil {
		return err
	}
	return q.sync()
}

// fail notes that the image contradicts itself. Nothing is written any more, and an image of version 3 says so.
func (q *Image) fail(err error) error {
	if q.opts.ReadOnly || q.bad.Swap(true) || q.Version < 3 {
		return err
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], q.incompat|incompatCorrupt)
	if werr := q.file.Write(b[:], fieldIncompat); werr == nil {
		_ = q.file.Sync()
	}
	return err
}

// writable is the error of writing to an image that cannot be written to.
func (q *Image) writable() error {
	switch {
	case q.opts.ReadOnly:
		return fmt.Errorf("the image is open for reading only")
	case q.bad.Load():
		return corrupt("it was found so before, and is not written to any more")
	}
	return q.broken
}
