package qcow2

// zeroHow says what becomes of clusters that are to read as zeroes.
type zeroHow uint8

const (
	zeroKeep    zeroHow = iota // their space stays theirs
	zeroUnmap                  // it is given back
	zeroDiscard                // it is given back, and version 2 may show the backing file
)

var zeroes [64 << 10]byte

// WriteZeroes makes a range read as zeroes; with unmap its space is given back.
func (q *Image) WriteZeroes(off, n int64, unmap bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.mayWrite(off, n); err != nil {
		return err
	}
	how := zeroKeep
	if unmap {
		how = zeroUnmap
	}
	return q.zero(off, n, how)
}

// Discard gives the space of whole clusters of a range back. They read as zeroes afterwards; with version 2 they show
// the backing file again. Parts of clusters stay as they are.
func (q *Image) Discard(off, n int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.mayWrite(off, n); err != nil {
		return err
	}
	end := off + n
	if end != q.Size() {
		end &^= q.ClusterSize() - 1
	}
	if off = (off + q.ClusterSize() - 1) &^ (q.ClusterSize() - 1); off >= end {
		return nil
	}
	return q.zero(off, end-off, zeroDiscard)
}

func (q *Image) zero(off, n int64, how zeroHow) error {
	for n > 0 {
		lead := off & (q.ClusterSize() - 1)
		m := min(n, q.ClusterSize()-lead)
		var err error
		if lead == 0 && (m == q.ClusterSize() || off+m == q.Size()) {
			i := off >> q.ClusterBits % q.perPage
			k := min(divUp(n, q.ClusterSize()), q.perPage-i)
			if k > 1 && off+n != q.Size() {
				k = min(n>>q.ClusterBits, q.perPage-i)
			}
			m = min(n, k<<q.ClusterBits)
			err = q.zeroClusters(off, k, how)
		} else {
			err = q.zeroPart(off, m)
		}
		if err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

// zeroPart zeroes less than a cluster by writing, if it is not zero yet.
func (q *Image) zeroPart(off, n int64) error {
	if zero, err := q.isZero(off, n); err != nil || zero {
		return err
	}
	for n > 0 {
		m := min(n, int64(len(zeroes)))
		if err := q.write(zeroes[:m], off); err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

// zeroClusters zeroes k whole clusters whose entries are in one page.
func (q *Image) zeroClusters(off, k int64, how zeroHow) error {
	pg, err := q.page(off)
	if err != nil {
		return err
	}
	if pg == nil && (how == zeroDiscard || !q.shows(off)) {
		return nil // never written, and zero if nothing shows through
	}
	if q.Version < 3 && how != zeroDiscard && q.shows(off) {
		return q.zeroPart(off, min(k<<q.ClusterBits, q.Size()-off))
	}
	if _, err := q.locate(off, 1); err != nil {
		return err
	}
	pg, i, err := q.ownEntry(off)
	if err != nil {
		return err
	}
	for c := range k {
		q.zeroEntry(pg, i+c, off+c<<q.ClusterBits, how)
	}
	if len(q.pending) > maxPendingRun {
		return q.flush()
	}
	return nil
}

// zeroEntry changes one entry.
func (q *Image) zeroEntry(pg *page, i, off int64, how zeroHow) {
	old := pg.words[i*q.stride].Load()
	bits := uint64(0)
	if q.ExtendedL2 {
		bits = pg.words[i*2+1].Load()
	}
	empty := old&(entryCompressed|entryOffset) == 0
	if empty && (how == zeroDiscard || !q.shows(off)) && bits&subclusterAllBits == 0 {
		return
	}
	keep := how == zeroKeep && q.Version >= 3 && old&entryCopied != 0 && old&entryCompressed == 0 && !empty
	entry := uint64(0)
	if keep {
		entry = old & (entryOffset | entryCopied)
	}
	if q.Version >= 3 && !q.ExtendedL2 {
		entry |= entryZero
	}
	pg.begin()
	pg.words[i*q.stride].Store(entry)
	if q.ExtendedL2 {
		pg.words[i*2+1].Store(subclusterAllBits << subclusters)
	}
	pg.end()
	q.entryChanged(pg)
	if !keep {
		q.dropEntry(old)
	}
}
