package qcow2

import (
	"encoding/binary"
	"fmt"
)

// Resize makes the disk larger. What is new reads as zeroes, whatever the backing file has there.
func (q *Image) Resize(size int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.writable(); err != nil {
		return err
	}
	old := q.Size()
	switch {
	case size%512 != 0:
		return fmt.Errorf("resize qcow2 image to %d bytes: not whole sectors", size)
	case size < old:
		return &UnsupportedError{fmt.Sprintf("a smaller size (%d bytes, it has %d)", size, old)}
	case q.Version < 3 && q.Snapshots > 0:
		return &UnsupportedError{"snapshots in version 2 of the format, with which it cannot be resized"}
	}
	entries := divUp(size, q.l2Entries()<<q.ClusterBits)
	if size > maxSize || entries*8 > maxL1Bytes {
		return fmt.Errorf("resize qcow2 image to %d bytes: with clusters of %d bytes %d are the most", size, q.ClusterSize(),
			min(maxSize, maxL1Bytes/8*q.l2Entries()<<q.ClusterBits))
	}
	if entries > q.l1Entries {
		if err := q.growL1(entries); err != nil {
			return err
		}
	}
	if b := q.opts.Backing; b != nil && b.Size() > old {
		q.size.Store(min(size, b.Size()))
		if err := q.zero(old, q.Size()-old, zeroUnmap); err != nil {
			q.size.Store(old)
			return err
		}
	}
	q.size.Store(old)
	if err := q.flush(); err != nil {
		return err
	}
	if err := q.writeEntry(fieldSize, uint64(size)); err != nil {
		return err
	}
	if err := q.sync(); err != nil {
		return err
	}
	q.size.Store(size)
	return nil
}

// growL1 moves the L1 table to where it has room for more entries.
func (q *Image) growL1(entries int64) error {
	if err := q.flush(); err != nil {
		return err
	}
	n := divUp(entries*8, q.ClusterSize())
	host, err := q.allocateRun(n)
	if err != nil {
		return err
	}
	old, oldAt, oldBytes := *q.l1.Load(), q.l1Off, q.l1Entries*8
	table := make([]byte, n<<q.ClusterBits)
	for i := range old {
		binary.BigEndian.PutUint64(table[8*i:], old[i].Load())
	}
	if err := q.writeFile(table, host); err != nil {
		return q.unallocate(host, n, err)
	}
	if err := q.flush(); err != nil { // the refcounts of the new table
		return err
	}
	var field [12]byte // l1_size and l1_table_offset
	binary.BigEndian.PutUint32(field[:], uint32(entries))
	binary.BigEndian.PutUint64(field[4:], uint64(host))
	if err := q.file.Write(field[:], fieldL1Size); err != nil {
		return err
	}
	if err := q.sync(); err != nil {
		return err
	}
	l1 := makeL1(entries)
	for i := range old {
		l1[i].Store(old[i].Load())
	}
	q.l1.Store(&l1)
	q.l1Off, q.l1Entries = host, entries
	if oldBytes == 0 {
		return nil
	}
	return q.release(oldAt>>q.ClusterBits, divUp(oldBytes, q.ClusterSize()))
}

// allocateRun takes exactly n clusters in a row.
func (q *Image) allocateRun(n int64) (int64, error) {
	var short []span
	for {
		host, got, err := q.allocate(n)
		if err == nil && got < n {
			short = append(short, span{host >> q.ClusterBits, got})
			continue
		}
		for _, s := range short {
			if rerr := q.release(s.first, s.n); rerr != nil {
				return 0, rerr
			}
		}
		return host, err
	}
}
