package qcow2

import (
	"encoding/binary"
	"fmt"
)

// Repair counts references anew, writes the refcounts that they ask for behind the end of the file, lets the header point
// to them, and marks the image as closed and sound. What leaked is free afterwards. It may be interrupted at any instant
// and be run again. Entries that point nowhere are beyond it.
func Repair(f File) error {
	c, err := newChecker(f)
	if err != nil {
		return err
	}
	if err := c.count(); err != nil {
		return err
	}
	if c.report.Nonsense > 0 {
		return corrupt("it cannot be repaired: %s", c.report.Texts[0])
	}
	if err := c.dropOldRefcounts(); err != nil {
		return err
	}
	table, err := c.writeRefcounts()
	if err != nil {
		return err
	}
	// A COPIED bit too many lets shared clusters be written to, one too few costs a copy: the image is marked as not
	// closed, or as it was, until both are right.
	err = c.copiedBits(func(_ string, at int64, entry uint64) error {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], entry)
		return f.Write(b[:], at)
	})
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	var field [12]byte
	binary.BigEndian.PutUint64(field[:], uint64(table.first<<c.ClusterBits))
	binary.BigEndian.PutUint32(field[8:], uint32(table.n))
	if err := f.Write(field[:], fieldRefTable); err != nil {
		return err
	}
	if err := f.Sync(); err != nil || c.Version < 3 {
		return err
	}
	binary.BigEndian.PutUint64(field[:], c.incompat&^(incompatDirty|incompatCorrupt))
	if err := f.Write(field[:8], fieldIncompat); err != nil {
		return err
	}
	return f.Sync()
}

// dropOldRefcounts forgets the references to the refcounts that are about to be replaced.
func (c *checker) dropOldRefcounts() error {
	sub := func(off, n int64) {
		for i := off >> c.ClusterBits; i <= (off+n-1)>>c.ClusterBits; i++ {
			c.counts[i]--
		}
	}
	sub(c.refTableOff, c.refTableEntries*8)
	for _, off := range c.stored {
		if off != 0 {
			sub(int64(off), c.ClusterSize())
		}
	}
	return nil
}

// writeRefcounts writes blocks and a table behind the end of the file and returns where the table is, in clusters.
func (c *checker) writeRefcounts() (span, error) {
	base, per, perTable := int64(len(c.counts)), c.perBlock(), c.ClusterSize()/8
	blocks, table := int64(0), int64(1)
	for (base + blocks + table) > blocks*per {
		blocks++
		table = divUp(blocks, perTable)
	}
	if table*c.ClusterSize() > maxRefTableBytes {
		return span{}, &UnsupportedError{"more clusters than a refcount table can count"}
	}
	entries := make([]byte, table*c.ClusterSize())
	for b := range blocks {
		block := make([]byte, c.ClusterSize())
		for i := range per {
			n := uint64(0)
			switch at := b*per + i; {
			case at < base:
				n = uint64(c.counts[at])
			case at < base+blocks+table:
				n = 1
			}
			if n > refMask(c.RefcountBits) {
				return span{}, corrupt("it cannot be repaired: cluster %d is used %d times, more than %d bits can count", b*per+i, n, c.RefcountBits)
			}
			setRef(block, i, c.RefcountBits, n)
		}
		at := (base + b) << c.ClusterBits
		binary.BigEndian.PutUint64(entries[8*b:], uint64(at))
		if err := c.f.Write(block, at); err != nil {
			return span{}, fmt.Errorf("write a refcount block: %w", err)
		}
	}
	if err := c.f.Write(entries, (base+blocks)<<c.ClusterBits); err != nil {
		return span{}, fmt.Errorf("write the refcount table: %w", err)
	}
	return span{base + blocks, table}, c.f.Sync()
}
