package qcow2

import (
	"encoding/binary"
	"fmt"
)

// Write writes p at off, all of it within the disk. It is durable after Flush.
func (q *Image) Write(p []byte, off int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.mayWrite(off, int64(len(p))); err != nil {
		return err
	}
	return q.write(p, off)
}

func (q *Image) mayWrite(off, n int64) error {
	if size := q.Size(); off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%d bytes at %d are not within the disk's %d", n, off, size)
	}
	return q.writable()
}

// write is Write under mu.
func (q *Image) write(p []byte, off int64) error {
	for len(p) > 0 {
		n, err := q.writeSome(p, off)
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// writeSome writes the beginning of p and returns how much.
func (q *Image) writeSome(p []byte, off int64) (int64, error) {
	at, err := q.locate(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	if at.class == classData && at.own {
		return at.n, q.file.Write(p[:at.n], at.host)
	}
	pg, i, err := q.ownEntry(off)
	if err != nil {
		return 0, err
	}
	if e := pg.words[i*q.stride].Load(); e&entryCompressed == 0 && e&entryCopied != 0 && e&entryOffset != 0 {
		return q.fillIn(pg, i, p, off)
	}
	return q.writeNew(pg, i, p, off)
}

// locate is lookup that reads what is not in memory. Under mu.
func (q *Image) locate(off, n int64) (piece, error) {
	at := q.lookup(off, n)
	if at.class == classMiss {
		if _, err := q.page(off); err != nil {
			return at, err
		}
		at = q.lookup(off, n)
	}
	if at.class == classNonsense || at.class == classMiss {
		return at, q.nonsense(off)
	}
	return at, nil
}

// ownEntry returns page and number of the L2 entry of off, in a table that is there and nobody else's.
func (q *Image) ownEntry(off int64) (*page, int64, error) {
	if err := q.ownTable(off); err != nil {
		return nil, 0, err
	}
	pg, err := q.page(off)
	return pg, off >> q.ClusterBits % q.perPage, err
}

// ownTable makes the L2 table for off, or a copy of it where a snapshot has it too.
func (q *Image) ownTable(off int64) error {
	l1 := *q.l1.Load()
	i := off >> q.ClusterBits / q.l2Entries()
	if i >= int64(len(l1)) {
		return q.nonsense(off)
	}
	e := l1[i].Load()
	old := int64(e & entryOffset)
	if old != 0 && e&entryCopied != 0 {
		return nil
	}
	table := make([]byte, q.ClusterSize())
	for at := int64(0); old != 0 && at < q.ClusterSize(); at += q.l2.bytes {
		pg, err := q.fetch(q.l2, old+at)
		if err != nil {
			return err
		}
		for w := range pg.words {
			binary.BigEndian.PutUint64(table[at+int64(8*w):], pg.words[w].Load())
		}
	}
	host, _, err := q.allocate(1)
	if err != nil {
		return err
	}
	q.l2.forget(host, q.ClusterSize())
	if err := q.writeFile(table, host); err != nil {
		return q.unallocate(host, 1, err)
	}
	l1[i].Store(uint64(host) | entryCopied)
	q.l1Dirty[i] = true
	q.unsaved.Store(true)
	if old != 0 {
		q.drop(old, q.ClusterSize())
	}
	return nil
}

// unallocate takes back what allocate gave and nothing came to refer to. It returns err.
func (q *Image) unallocate(host, n int64, err error) error {
	if rerr := q.release(host>>q.ClusterBits, n); rerr != nil {
		return rerr
	}
	return err
}

// fillIn writes into a cluster that is ours, and of which parts read as something else than what is in the file.
func (q *Image) fillIn(pg *page, i int64, p []byte, off int64) (int64, error) {
	e := pg.words[i*q.stride].Load()
	host, start := int64(e&entryOffset), off&^(q.ClusterSize()-1)
	from := off - start
	to := min(from+int64(len(p)), q.ClusterSize())
	a, b := from&^(q.subSize-1), (to+q.subSize-1)&^(q.subSize-1)
	bits := uint64(0)
	if q.ExtendedL2 {
		bits = pg.words[i*2+1].Load()
		if bits>>(from/q.subSize)&1 != 0 {
			a = from
		}
		if bits>>((to-1)/q.subSize)&1 != 0 {
			b = to
		}
	}
	if err := q.place(p[:to-from], host, start, [4]int64{a, from, to, b}, false); err != nil {
		return 0, err
	}
	pg.begin()
	pg.words[i*q.stride].Store(uint64(host) | entryCopied)
	if q.ExtendedL2 {
		touched := subBits(from/q.subSize, (to-1)/q.subSize)
		pg.words[i*2+1].Store((bits | touched) &^ (touched << subclusters))
	}
	pg.end()
	q.entryChanged(pg)
	return to - from, nil
}

// subBits are the bits of subclusters a to b.
func subBits(a, b int64) uint64 { return (1<<(b-a+1) - 1) << a }

func (q *Image) entryChanged(pg *page) {
	q.l2.changed(pg)
	q.unsaved.Store(true)
}

// place writes p to bytes at[1] to at[2] of what is at host in the file and shows the disk from start on, and before and
// after it, from at[0] and up to at[3], what the disk has there now. In a fresh place zeroes need not be written.
func (q *Image) place(p []byte, host, start int64, at [4]int64, fresh bool) error {
	if err := q.copyOld(host, start, at[0], at[1], fresh); err != nil {
		return err
	}
	if err := q.writeFile(p, host+at[1]); err != nil {
		return err
	}
	return q.copyOld(host, start, at[2], at[3], fresh)
}

func (q *Image) copyOld(host, start, from, to int64, fresh bool) error {
	if from >= to {
		return nil
	}
	if fresh {
		zero, err := q.isZero(start+from, to-from)
		if err != nil || zero {
			return err
		}
	}
	buf := make([]byte, to-from)
	if err := q.readOld(buf, start+from); err != nil {
		return err
	}
	return q.writeFile(buf, host+from)
}

// readOld is Read under mu, which also reads a last cluster beyond the disk's end.
func (q *Image) readOld(p []byte, off int64) error {
	for len(p) > 0 {
		at, err := q.locate(off, int64(len(p)))
		if err != nil {
			return err
		}
		if err := q.readPiece(p[:at.n], off, at); err != nil {
			return err
		}
		p, off = p[at.n:], off+at.n
	}
	return nil
}

// isZero tells whether the metadata alone says that a range reads as zeroes.
func (q *Image) isZero(off, n int64) (bool, error) {
	for n > 0 {
		at, err := q.locate(off, n)
		if err != nil {
			return false, err
		}
		if at.class != classZero && (at.class != classNone || q.shows(off)) {
			return false, nil
		}
		off, n = off+at.n, n-at.n
	}
	return true, nil
}

// shows tells whether the backing file shows through at off, where nothing was written.
func (q *Image) shows(off int64) bool { return q.opts.Backing != nil && off < q.opts.Backing.Size() }

// writeNew writes into new clusters: as many as there are in a row that need it, up to the end of the page.
func (q *Image) writeNew(pg *page, i int64, p []byte, off int64) (int64, error) {
	lead := off & (q.ClusterSize() - 1)
	want := min(divUp(lead+int64(len(p)), q.ClusterSize()), q.perPage-i)
	k := int64(1)
	for ; k < want; k++ {
		e := pg.words[(i+k)*q.stride].Load()
		if e&entryCompressed == 0 && e&entryCopied != 0 && e&entryOffset != 0 {
			break
		}
	}
	top := q.top
	host, k, err := q.allocate(k)
	if err != nil {
		return 0, err
	}
	end := min(lead+int64(len(p)), k<<q.ClusterBits)
	at := [4]int64{lead &^ (q.unit(pg, i) - 1), lead, end, 0}
	last := i + k - 1
	at[3] = (end + q.unit(pg, last) - 1) &^ (q.unit(pg, last) - 1)
	if err := q.place(p[:end-lead], host, off-lead, at, host >= top); err != nil {
		return 0, q.unallocate(host, k, err)
	}
	for c := range k {
		from, to := max(at[0]-c<<q.ClusterBits, 0), min(at[3]-c<<q.ClusterBits, q.ClusterSize())
		q.setNew(pg, i+c, host+c<<q.ClusterBits, from, to)
	}
	q.entryChanged(pg)
	return end - lead, nil
}

// unit is how much of a cluster must be written when a part of it is and the cluster is new: a subcluster, unless other
// subclusters have data that must move too.
func (q *Image) unit(pg *page, i int64) int64 {
	if q.ExtendedL2 && pg.words[i*2].Load()&(entryOffset|entryCompressed) == 0 {
		return q.subSize
	}
	return q.ClusterSize()
}

// setNew lets an entry point to a new cluster, of which bytes from to to were written, and drops what it pointed to.
func (q *Image) setNew(pg *page, i, host, from, to int64) {
	old := pg.words[i*q.stride].Load()
	pg.begin()
	pg.words[i*q.stride].Store(uint64(host) | entryCopied)
	if q.ExtendedL2 {
		touched := subBits(from/q.subSize, (to-1)/q.subSize)
		bits := pg.words[i*2+1].Load()
		if old&entryCompressed != 0 {
			bits = 0
		}
		pg.words[i*2+1].Store((bits | touched) &^ (touched << subclusters))
	}
	pg.end()
	q.dropEntry(old)
}

// dropEntry drops what an L2 entry pointed to. The entry has changed already.
func (q *Image) dropEntry(e uint64) {
	if e&entryCompressed != 0 {
		host, n := q.packedRange(e)
		q.forgetInflated()
		q.drop(host&^511, n+host&511)
	} else if host := int64(e & entryOffset); host != 0 {
		q.drop(host, q.ClusterSize())
	}
}
