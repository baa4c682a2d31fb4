package qcow2

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Flush makes durable what was written before.
func (q *Image) Flush() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.opts.ReadOnly {
		return nil
	}
	if q.broken != nil {
		return q.broken
	}
	return q.flush()
}

// flush writes metadata so that at no instant something on disk refers to what is not there: refcounts first, then the
// table of refcount blocks, then L2 tables (data is there by then), then the L1 table. Clusters that nothing on disk
// refers to any more are given back last; a crash in between leaks them.
func (q *Image) flush() error {
	if _, err := q.refs.writeBack(); err != nil {
		return fmt.Errorf("write refcounts: %w", err)
	}
	// One sync for the refcounts and for the data that the L2 tables are about to refer to.
	if err := q.sync(); err != nil {
		return err
	}
	if !q.unsaved.Load() {
		return q.flushed()
	}
	if len(q.refDirty) > 0 {
		for b := range q.refDirty {
			if err := q.writeEntry(q.refTableOff+8*b, uint64(q.refTable[b])); err != nil {
				return fmt.Errorf("write the refcount table: %w", err)
			}
		}
		if err := q.sync(); err != nil {
			return err
		}
		clear(q.refDirty)
	}
	wrote, err := q.l2.writeBack()
	if err != nil {
		return fmt.Errorf("write L2 tables: %w", err)
	}
	if wrote {
		if err := q.sync(); err != nil {
			return err
		}
	}
	if err := q.writeL1(); err != nil {
		return err
	}
	q.unsaved.Store(false)
	return q.flushed()
}

func (q *Image) writeL1() error {
	if len(q.l1Dirty) == 0 {
		return nil
	}
	l1 := *q.l1.Load()
	for i := range q.l1Dirty {
		if err := q.writeEntry(q.l1Off+8*i, l1[i].Load()); err != nil {
			return fmt.Errorf("write the L1 table: %w", err)
		}
	}
	if err := q.sync(); err != nil {
		return err
	}
	clear(q.l1Dirty)
	return nil
}

func (q *Image) writeEntry(off int64, v uint64) error {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	return q.file.Write(b[:], off)
}

// flushed moves dropped clusters on. With very many of them it waits for the requests that may still use them.
func (q *Image) flushed() error {
	q.giveBack()
	for wait := 50 * time.Microsecond; len(q.limbo) > 0 && len(q.pending) > maxPendingRun; wait = min(2*wait, time.Millisecond) {
		time.Sleep(wait)
		q.giveBack()
	}
	if len(q.limbo) == 0 && len(q.pending) > 0 {
		q.limbo, q.pending = q.pending, nil
		q.epoch.Add(1)
		q.giveBack()
	}
	return nil
}

// sync makes the file durable. After an error nobody knows what the kernel dropped, so that it is the last.
func (q *Image) sync() error {
	if q.broken != nil {
		return q.broken
	}
	if err := q.file.Sync(); err != nil {
		q.broken = fmt.Errorf("sync the image: %w", err)
	}
	return q.broken
}

// writeFile writes to clusters that are new, or ours. A write that fails may have written a part: the place does not read
// as zeroes any more for who gets it next.
func (q *Image) writeFile(p []byte, off int64) error {
	if end := off + int64(len(p)); end > q.top {
		q.top = (end + q.ClusterSize() - 1) &^ (q.ClusterSize() - 1)
	}
	return q.file.Write(p, off)
}
