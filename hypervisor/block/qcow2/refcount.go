package qcow2

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// perBlock is the number of clusters that a refcount block counts.
func (h *Header) perBlock() int64 { return h.ClusterSize() * 8 / int64(h.RefcountBits) }

// refShift is where refcount i of a word of big-endian bytes is: refcounts of less than a byte begin at its low bits.
func refShift(i int64, width int) uint {
	bit := int(i) * width
	if width < 8 {
		return uint(56 - bit/8*8 + bit%8)
	}
	return uint(64 - bit - width)
}

func refMask(width int) uint64 { return ^uint64(0) >> (64 - width) }

// refPage returns the page that has a cluster's refcount, and the word and shift in it; nil where no block counts it.
func (q *Image) refPage(cluster int64) (p *page, word int64, shift uint, err error) {
	per := q.perBlock()
	b := cluster / per
	if b >= int64(len(q.refTable)) || q.refTable[b] == 0 {
		return nil, 0, 0, nil
	}
	if q.reserved(q.refTable[b]) {
		return nil, 0, 0, q.fail(corrupt("refcount block %d is at %#x, where none can be", b, q.refTable[b]))
	}
	bit := cluster % per * int64(q.RefcountBits)
	at := q.refTable[b] + bit/8/q.refs.bytes*q.refs.bytes
	if p, err = q.fetch(q.refs, at); err != nil {
		return nil, 0, 0, err
	}
	perWord := int64(64 / q.RefcountBits)
	return p, bit / 64 % int64(len(p.words)), refShift(cluster%perWord, q.RefcountBits), nil
}

func (q *Image) refcount(cluster int64) (uint64, error) {
	p, word, shift, err := q.refPage(cluster)
	if p == nil {
		return 0, err
	}
	return p.words[word].Load() >> shift & refMask(q.RefcountBits), nil
}

// setRefcount changes a refcount whose block exists.
func (q *Image) setRefcount(cluster int64, n uint64) error {
	p, word, shift, err := q.refPage(cluster)
	if err != nil {
		return err
	}
	if p == nil {
		return q.fail(corrupt("cluster %d is in use and no refcount block counts it", cluster))
	}
	mask := refMask(q.RefcountBits) << shift
	p.words[word].Store(p.words[word].Load()&^mask | n<<shift&mask)
	q.refs.changed(p)
	return nil
}

// allocate takes up to n free clusters in a row, at least one, and returns where they begin in the file.
func (q *Image) allocate(n int64) (host, got int64, err error) {
	if len(q.limbo) > 0 {
		q.giveBack()
	}
	first, err := q.firstFree()
	if err != nil {
		return 0, 0, err
	}
	if err := q.fitsFile(first); err != nil {
		return 0, 0, err
	}
	if host = first << q.ClusterBits; q.reserved(host) || host >= q.l1Off && host < q.l1Off+q.l1Entries*8 {
		return 0, 0, q.fail(corrupt("the header or a table at %#x is counted as free", host))
	}
	for got = 0; got < n; got++ {
		c := first + got
		if got > 0 {
			if b := c / q.perBlock(); b >= int64(len(q.refTable)) || q.refTable[b] == 0 || q.fitsFile(c) != nil {
				break
			}
			if used, err := q.refcount(c); err != nil || used != 0 {
				break
			}
		}
		if err := q.setRefcount(c, 1); err != nil {
			return 0, 0, err
		}
	}
	q.hint = first + got
	return host, got, nil
}

// fitsFile refuses a cluster beyond the end of what cannot grow.
func (q *Image) fitsFile(cluster int64) error {
	if cluster >= maxSize>>q.ClusterBits {
		return unix.EFBIG
	}
	if q.file.Grows() {
		return nil
	}
	if size, err := q.file.Size(); err != nil || cluster >= size>>q.ClusterBits {
		return unix.ENOSPC
	}
	return nil
}

// maxBeyond is how many clusters in use beyond the file's end are looked at for a free one.
const maxBeyond = 1 << 22

// firstFree finds a free cluster that a refcount block counts, and makes that block if need be.
func (q *Image) firstFree() (int64, error) {
	end := q.top>>q.ClusterBits + maxBeyond
	for c := q.hint; ; c++ {
		if c > end {
			return 0, q.fail(corrupt("%d clusters beyond the file's end are marked as in use", maxBeyond))
		}
		b := c / q.perBlock()
		if b >= int64(len(q.refTable)) {
			if err := q.growRefTable(); err != nil {
				return 0, err
			}
			continue // the new table may have taken c
		}
		if q.refTable[b] == 0 {
			if err := q.newRefBlock(b, c); err != nil {
				return 0, err
			}
			continue
		}
		used, err := q.refcount(c)
		if err != nil {
			return 0, err
		}
		if used == 0 {
			return c, nil
		}
	}
}

// newRefBlock puts refcount block b into cluster c, which is one of those that it counts: all of them were free.
func (q *Image) newRefBlock(b, c int64) error {
	if err := q.fitsFile(c); err != nil {
		return err
	}
	block := make([]byte, q.ClusterSize())
	setRef(block, c%q.perBlock(), q.RefcountBits, 1)
	off := c << q.ClusterBits
	q.refs.forget(off, q.ClusterSize())
	if err := q.writeFile(block, off); err != nil {
		return fmt.Errorf("write a refcount block: %w", err)
	}
	q.refTable[b] = off
	q.refDirty[b] = true
	q.unsaved.Store(true)
	return nil
}

// setRef sets refcount i of a block in memory.
func setRef(block []byte, i int64, width int, n uint64) {
	per := int64(64 / width)
	w := block[i/per*8:]
	shift := refShift(i%per, width)
	v := binary.BigEndian.Uint64(w)&^(refMask(width)<<shift) | n<<shift
	binary.BigEndian.PutUint64(w, v)
}

// growRefTable makes room for more refcount blocks: it writes, behind all that is counted so far, a larger table with the
// blocks that count it and themselves, and lets the header point to it.
func (q *Image) growRefTable() error {
	per, old := q.perBlock(), int64(len(q.refTable))
	perCluster := q.ClusterSize() / 8
	entries := divUp(old+old/2+1, perCluster) * perCluster
	blocks := int64(1)
	for n := divUp(blocks+entries/perCluster, per); n != blocks; n = divUp(blocks+entries/perCluster, per) {
		blocks = n
		if entries < old+blocks {
			entries = divUp(old+blocks, perCluster) * perCluster
		}
	}
	if entries*8 > maxRefTableBytes {
		return fmt.Errorf("the image cannot grow: its refcount table would be larger than %d bytes: %w", maxRefTableBytes, unix.EFBIG)
	}
	base, tableClusters := old*per, entries/perCluster
	if err := q.fitsFile(base + blocks + tableClusters); err != nil {
		return err
	}
	table := append(append([]int64(nil), q.refTable...), make([]int64, entries-old)...)
	block := make([]byte, q.ClusterSize())
	for b := range blocks {
		clear(block)
		for i := b * per; i < min((b+1)*per, blocks+tableClusters); i++ {
			setRef(block, i%per, q.RefcountBits, 1)
		}
		table[old+b] = (base + b) << q.ClusterBits
		q.refs.forget(table[old+b], q.ClusterSize())
		if err := q.writeFile(block, table[old+b]); err != nil {
			return err
		}
	}
	return q.switchRefTable(table, base+blocks)
}

// switchRefTable writes a refcount table at a cluster and makes it the one that counts.
func (q *Image) switchRefTable(table []int64, at int64) error {
	b := make([]byte, len(table)*8)
	for i, off := range table {
		binary.BigEndian.PutUint64(b[8*i:], uint64(off))
	}
	// Blocks that the old table does not name yet are named by the new one, so they must be there.
	if _, err := q.refs.writeBack(); err != nil {
		return err
	}
	if err := q.writeFile(b, at<<q.ClusterBits); err != nil {
		return err
	}
	if err := q.sync(); err != nil {
		return err
	}
	var field [12]byte
	binary.BigEndian.PutUint64(field[:], uint64(at<<q.ClusterBits))
	binary.BigEndian.PutUint32(field[8:], uint32(int64(len(table))*8/q.ClusterSize()))
	if err := q.file.Write(field[:], fieldRefTable); err != nil {
		return err
	}
	if err := q.sync(); err != nil {
		return err
	}
	oldAt, oldEntries := q.refTableOff, q.refTableEntries
	q.refTable, q.refDirty = table, map[int64]bool{}
	q.setRefTable(at<<q.ClusterBits, int64(len(table)))
	return q.release(oldAt>>q.ClusterBits, oldEntries*8/q.ClusterSize())
}

// release lowers refcounts by one, now. Nothing on disk refers to the clusters.
func (q *Image) release(first, n int64) error {
	freed := span{}
	for c := first; c < first+n; c++ {
		r, err := q.refcount(c)
		if err != nil {
			return err
		}
		if r == 0 {
			return q.fail(corrupt("cluster %d was in use and its refcount is 0", c))
		}
		if err := q.setRefcount(c, r-1); err != nil {
			return err
		}
		if r > 1 {
			continue
		}
		q.hint = min(q.hint, c)
		if freed.first+freed.n != c {
			q.punch(freed)
			freed = span{first: c}
		}
		freed.n++
	}
	q.punch(freed)
	return nil
}

// punch gives the space of free clusters back, where that is wanted.
func (q *Image) punch(s span) {
	if q.opts.Punch && s.n > 0 {
		_ = q.file.Punch(s.first<<q.ClusterBits, s.n<<q.ClusterBits) // a hint
	}
}

// drop notes that the L2 or L1 tables in memory do not refer to n bytes at host any more.
func (q *Image) drop(host, n int64) {
	first := host >> q.ClusterBits
	last := (host + n - 1) >> q.ClusterBits
	if k := len(q.pending) - 1; k >= 0 && q.pending[k].first+q.pending[k].n == first {
		q.pending[k].n += last - first + 1
		return
	}
	q.pending = append(q.pending, span{first, last - first + 1})
}

// giveBack releases what was dropped before the last flush, as soon as no request can know it any more.
func (q *Image) giveBack() {
	if !q.drained() {
		return
	}
	limbo := q.limbo
	q.limbo = nil
	for _, s := range limbo {
		if q.release(s.first, s.n) != nil {
			return // leaks, or fail has noted it
		}
	}
}
