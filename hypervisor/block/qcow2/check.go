package qcow2

import (
	"encoding/binary"
	"fmt"
)

// Report is what Check found.
type Report struct {
	Used     int64    // clusters that something refers to
	Leaks    int64    // clusters counted more often than they are referred to
	Errors   int64    // counted less often, entries with a wrong COPIED bit
	Nonsense int64    // tables and entries that cannot be: what Repair cannot mend
	Texts    []string // the first of each, for people
}

const maxTexts = 20

func (r *Report) note(n *int64, format string, args ...any) {
	if *n++; len(r.Texts) < maxTexts {
		r.Texts = append(r.Texts, fmt.Sprintf(format, args...))
	}
}

// maxCheckClusters bounds the memory that a check needs, four bytes for each cluster of the file.
const maxCheckClusters = 64 << 20

// checker counts what refers to each cluster.
type checker struct {
	*Header
	f      File
	report Report
	counts []uint32
	stored []uint64 // refcount blocks
}

// Check counts how often each cluster is referred to and compares. The image must not be in use.
func Check(f File) (*Report, error) {
	c, err := newChecker(f)
	if err != nil {
		return nil, err
	}
	if err := c.count(); err != nil {
		return nil, err
	}
	return &c.report, c.compare()
}

func newChecker(f File) (*checker, error) {
	h, err := ReadHeader(f)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	n := divUp(size, h.ClusterSize())
	if n > maxCheckClusters {
		return nil, &UnsupportedError{fmt.Sprintf("%d clusters, of which a check can count %d", n, maxCheckClusters)}
	}
	return &checker{Header: h, f: f, counts: make([]uint32, n)}, nil
}

// add counts a reference to n bytes at off.
func (c *checker) add(what string, off, n int64) {
	if n <= 0 {
		return
	}
	for i := off >> c.ClusterBits; i <= (off+n-1)>>c.ClusterBits; i++ {
		if i >= int64(len(c.counts)) {
			c.report.note(&c.report.Nonsense, "%s at %#x is beyond the file's end", what, off)
			return
		}
		if c.counts[i] == 0 {
			c.report.Used++
		}
		if c.counts[i] < 1<<32-1 {
			c.counts[i]++
		}
	}
}

// table reads n big-endian words.
func (c *checker) table(off, n int64) ([]uint64, error) {
	b := make([]byte, n*8)
	if err := c.f.Read(b, off); err != nil {
		return nil, err
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return out, nil
}

func (c *checker) count() error {
	c.add("the header", 0, c.ClusterSize())
	c.add("the refcount table", c.refTableOff, c.refTableEntries*8)
	blocks, err := c.table(c.refTableOff, c.refTableEntries)
	if err != nil {
		return err
	}
	for i, off := range blocks {
		if off != 0 && c.plausible(fmt.Sprintf("refcount block %d", i), off) {
			c.add("a refcount block", int64(off), c.ClusterSize())
		}
	}
	c.stored = blocks
	if err := c.l1("the L1 table", c.l1Off, c.l1Entries); err != nil {
		return err
	}
	return c.snapshots()
}

func (c *checker) plausible(what string, off uint64) bool {
	if off%uint64(c.ClusterSize()) != 0 || off>>c.ClusterBits >= uint64(len(c.counts)) {
		c.report.note(&c.report.Nonsense, "%s is at %#x, where it cannot be", what, off)
		return false
	}
	return true
}

func (c *checker) l1(what string, off, n int64) error {
	c.add(what, off, n*8)
	entries, err := c.table(off, n)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if at := e & entryOffset; at != 0 && c.plausible(fmt.Sprintf("L2 table %d", i), at) {
			c.add("an L2 table", int64(at), c.ClusterSize())
			if err := c.l2(int64(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) l2(off int64) error {
	words, err := c.table(off, c.ClusterSize()/8)
	if err != nil {
		return err
	}
	stride := c.ClusterSize() / 8 / c.l2Entries()
	q := &Image{Header: *c.Header}
	for i := int64(0); i < int64(len(words)); i += stride {
		e := words[i]
		if e&entryCompressed != 0 {
			host, n := q.packedRange(e)
			if host >= int64(len(c.counts))<<c.ClusterBits {
				c.report.note(&c.report.Nonsense, "a compressed cluster at %#x is beyond the file's end", host)
				continue
			}
			n = min(n, int64(len(c.counts))<<c.ClusterBits-host) // the last sector may be cut off
			c.add("a compressed cluster", host&^511, n+host&511)
		} else if at := e & entryOffset; at != 0 && c.plausible("a cluster", at) {
			c.add("a cluster", int64(at), c.ClusterSize())
		}
		if stride == 2 && e&entryCompressed == 0 && words[i+1]&(words[i+1]>>subclusters)&subclusterAllBits != 0 {
			c.report.note(&c.report.Nonsense, "an entry has subclusters that are both allocated and zero")
		}
	}
	return nil
}

// snapshots counts what the internal snapshots refer to.
func (c *checker) snapshots() error {
	if c.Snapshots == 0 {
		return nil
	}
	var at [8]byte
	if err := c.f.Read(at[:], 64); err != nil {
		return err
	}
	begin := int64(binary.BigEndian.Uint64(at[:]) & entryOffset)
	pos := begin
	for range c.Snapshots {
		var b [40]byte
		if err := c.f.Read(b[:], pos); err != nil {
			return err
		}
		l1Off, l1Entries := binary.BigEndian.Uint64(b[0:]), int64(binary.BigEndian.Uint32(b[8:]))
		extra := int64(binary.BigEndian.Uint32(b[36:]))
		if l1Entries*8 > maxL1Bytes || extra > maxHeaderBytes || !c.plausible("a snapshot's L1 table", l1Off) {
			c.report.note(&c.report.Nonsense, "the snapshot table makes no sense")
			return nil
		}
		pos += (40 + extra + int64(binary.BigEndian.Uint16(b[12:])) + int64(binary.BigEndian.Uint16(b[14:])) + 7) &^ 7
		if err := c.l1("a snapshot's L1 table", int64(l1Off), l1Entries); err != nil {
			return err
		}
	}
	c.add("the snapshot table", begin, pos-begin)
	return nil
}

// compare looks at every stored refcount and at the COPIED bits of the active tables.
func (c *checker) compare() error {
	per := c.perBlock()
	for b, off := range c.stored {
		first := int64(b) * per
		if off == 0 || off>>c.ClusterBits >= uint64(len(c.counts)) || off%uint64(c.ClusterSize()) != 0 {
			for i := first; i < min(first+per, int64(len(c.counts))); i++ {
				c.one(i, 0)
			}
			continue
		}
		words, err := c.table(int64(off), c.ClusterSize()/8)
		if err != nil {
			return err
		}
		perWord := int64(64 / c.RefcountBits)
		for i := range per {
			n := words[i/perWord] >> refShift(i%perWord, c.RefcountBits) & refMask(c.RefcountBits)
			c.one(first+i, n)
		}
	}
	for i := int64(len(c.stored)) * per; i < int64(len(c.counts)); i++ {
		c.one(i, 0)
	}
	return c.copiedBits(func(what string, at int64, _ uint64) error {
		c.report.note(&c.report.Errors, "%s at %#x has the wrong COPIED bit", what, at)
		return nil
	})
}

func (c *checker) one(i int64, stored uint64) {
	counted := uint64(0)
	if i < int64(len(c.counts)) {
		counted = uint64(c.counts[i])
	}
	switch {
	case stored > counted:
		c.report.note(&c.report.Leaks, "cluster %d is counted %d times and used %d times", i, stored, counted)
	case stored < counted:
		c.report.note(&c.report.Errors, "cluster %d is counted %d times and used %d times", i, stored, counted)
	}
}

// copiedBits calls wrong for each entry of the active tables whose COPIED bit is not what the counted references ask
// for, with the entry as it should be.
func (c *checker) copiedBits(wrong func(what string, at int64, entry uint64) error) error {
	should := func(e uint64) uint64 {
		if i := e & entryOffset >> c.ClusterBits; i < uint64(len(c.counts)) && c.counts[i] == 1 {
			return e | entryCopied
		}
		return e &^ entryCopied
	}
	l1, err := c.table(c.l1Off, c.l1Entries)
	if err != nil {
		return err
	}
	stride := c.ClusterSize() / 8 / c.l2Entries()
	for i, e := range l1 {
		table := int64(e & entryOffset)
		if table == 0 || table>>c.ClusterBits >= int64(len(c.counts)) {
			continue
		}
		if want := should(e); want != e {
			if err := wrong("L1 entry", c.l1Off+8*int64(i), want); err != nil {
				return err
			}
		}
		words, err := c.table(table, c.ClusterSize()/8)
		if err != nil {
			return err
		}
		for j := int64(0); j < int64(len(words)); j += stride {
			e := words[j]
			if e&entryCompressed != 0 || e&entryOffset == 0 {
				continue
			}
			if want := should(e); want != e {
				if err := wrong("L2 entry", table+8*j, want); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
