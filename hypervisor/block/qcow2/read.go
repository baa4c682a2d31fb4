package qcow2

import "fmt"

// Read implements Backing.
func (q *Image) Read(p []byte, off int64) error {
	if size := q.Size(); off+int64(len(p)) > size {
		n := max(size-off, 0)
		clear(p[n:])
		p = p[:n]
	}
	r := q.shared
	for len(p) > 0 {
		e := r.Enter()
		at := q.lookup(off, int64(len(p)))
		if at.class == classMiss {
			r.Leave(e)
			if err := q.loadPage(off); err != nil {
				return err
			}
			continue
		}
		err := q.readPiece(p[:at.n], off, at)
		r.Leave(e)
		if err != nil {
			return err
		}
		p, off = p[at.n:], off+at.n
	}
	return nil
}

// readPiece reads what lookup found.
func (q *Image) readPiece(p []byte, off int64, at piece) error {
	switch at.class {
	case classZero:
		clear(p)
	case classNone:
		if b := q.opts.Backing; b != nil {
			return b.Read(p, off)
		}
		clear(p)
	case classData:
		return q.file.Read(p, at.host)
	case classPacked:
		return q.readPacked(p, off, at.entry)
	default:
		return q.nonsense(off)
	}
	return nil
}

// nonsense is the error of an entry that cannot be.
func (q *Image) nonsense(off int64) error {
	return q.fail(corrupt("the entries for offset %d of the disk point where no data can be", off))
}

// loadPage brings the L2 entries of an offset into memory.
func (q *Image) loadPage(off int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, err := q.page(off)
	return err
}

// page returns the page with the entry of off, nil where there is no L2 table. Under mu.
func (q *Image) page(off int64) (*page, error) {
	cluster := off >> q.ClusterBits
	l1 := *q.l1.Load()
	i := cluster / q.l2Entries()
	if i >= int64(len(l1)) {
		return nil, q.nonsense(off)
	}
	table := int64(l1[i].Load() & entryOffset)
	if table == 0 {
		return nil, nil
	}
	if table&(q.ClusterSize()-1) != 0 || q.reserved(table) {
		return nil, q.fail(corrupt("L1 entry %d points to %#x, where no L2 table can be", i, table))
	}
	return q.fetch(q.l2, q.pageAt(table, cluster))
}

// fetch returns a page, read if it must be. To make room it may have to flush.
func (q *Image) fetch(c *cache, at int64) (*page, error) {
	if p := c.find(at); p != nil {
		return p, nil
	}
	p := c.victim(at)
	if p == nil {
		if err := q.flush(); err != nil {
			return nil, err
		}
		// Flushing gives clusters back, which may change refcounts, but never fills a set of them.
		if p = c.victim(at); p == nil {
			if _, err := c.writeBack(); err != nil {
				return nil, err
			}
			if p = c.victim(at); p == nil {
				return nil, fmt.Errorf("no room for a table in memory")
			}
		}
	}
	if err := c.fill(p, at); err != nil {
		return nil, fmt.Errorf("read a table at %#x: %w", at, err)
	}
	return p, nil
}
