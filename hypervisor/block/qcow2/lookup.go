package qcow2

// Bits of L1 and L2 entries.
const (
	entryCopied     = 1 << 63 // the refcount is one: may be written in place
	entryCompressed = 1 << 62
	entryOffset     = 0x00fffffffffffe00
	entryZero       = 1 << 0 // version 3, not with extended L2 entries
)

// class is what an L2 entry says of a range.
type class uint8

const (
	classMiss     class = iota // the L2 table is not in memory
	classNone                  // never written: shows the backing file
	classZero                  // reads as zeroes
	classData                  // in the file as it is
	classPacked                // in a compressed cluster
	classNonsense              // the entry cannot be
)

// piece is what lookup finds: the longest range of one class from an offset on, up to the end of a page of entries.
type piece struct {
	class class
	n     int64  // bytes
	host  int64  // of classData: of the first byte
	own   bool   // classData: may be written in place
	entry uint64 // classPacked
}

// lookup classifies the bytes from off on, at most n of them, without lock or I/O.
func (q *Image) lookup(off, n int64) piece {
	cluster := off >> q.ClusterBits
	perTable := q.l2Entries()
	inPage := cluster % q.perPage
	n = min(n, (q.perPage-inPage)<<q.ClusterBits-off&(q.ClusterSize()-1))
	l1 := *q.l1.Load()
	i := cluster / perTable
	if i >= int64(len(l1)) {
		return piece{class: classNonsense, n: n}
	}
	table := int64(l1[i].Load() & entryOffset)
	if table == 0 {
		return piece{class: classNone, n: n}
	}
	if table&(q.ClusterSize()-1) != 0 {
		return piece{class: classNonsense, n: n}
	}
	p := q.l2.find(q.pageAt(table, cluster))
	if p == nil {
		return piece{class: classMiss, n: n}
	}
	gen, key := p.gen.Load(), p.off.Load()
	found := q.scan(p, inPage, off&(q.ClusterSize()-1), n)
	if gen&1 != 0 || key != q.pageAt(table, cluster) || p.gen.Load() != gen {
		return piece{class: classMiss, n: n}
	}
	return found
}

// pageAt is where the page of a table that has the entry of a cluster is in the file.
func (q *Image) pageAt(table, cluster int64) int64 {
	return table + cluster%q.l2Entries()/q.perPage*q.l2.bytes
}

// scan merges what the entries of p from number i on say of n bytes, of which the first is lead bytes into its cluster.
func (q *Image) scan(p *page, i, lead, n int64) piece {
	first := q.decode(p, i, lead, n)
	if first.class == classPacked || first.class == classNonsense {
		return first
	}
	for first.n < n {
		at := lead + first.n
		next := q.decode(p, i+at>>q.ClusterBits, at&(q.ClusterSize()-1), n-first.n)
		if next.class != first.class || next.own != first.own {
			break
		}
		if first.class == classData && next.host != first.host+first.n {
			break
		}
		first.n += next.n
	}
	return first
}

// decode says what one entry says of up to n bytes that are lead bytes into its cluster.
func (q *Image) decode(p *page, i, lead, n int64) piece {
	e := p.words[i*q.stride].Load()
	n = min(n, q.ClusterSize()-lead)
	if e&entryCompressed != 0 {
		return piece{class: classPacked, n: n, entry: e}
	}
	host := int64(e & entryOffset)
	if host&(q.ClusterSize()-1) != 0 || host != 0 && q.reserved(host) {
		return piece{class: classNonsense, n: n}
	}
	d := piece{class: classData, n: n, host: host + lead, own: e&entryCopied != 0}
	switch {
	case q.ExtendedL2:
		return q.decodeBits(d, p.words[i*2+1].Load(), lead)
	case q.Version >= 3 && e&entryZero != 0:
		return piece{class: classZero, n: n}
	case host == 0:
		return piece{class: classNone, n: n}
	}
	return d
}

// decodeBits narrows d down to subclusters of one class. The low half of bits says which are allocated, the high half
// which read as zeroes.
func (q *Image) decodeBits(d piece, bits uint64, lead int64) piece {
	classAt := func(s int64) class {
		switch bits >> s & (1 | 1<<subclusters) {
		case 0:
			return classNone
		case 1:
			if d.host == lead {
				return classNonsense // allocated nowhere
			}
			return classData
		case 1 << subclusters:
			return classZero
		}
		return classNonsense
	}
	s := lead / q.subSize
	d.class = classAt(s)
	n := (s+1)*q.subSize - lead
	for s++; n < d.n && classAt(s) == d.class; s++ {
		n += q.subSize
	}
	d.n = min(d.n, n)
	if d.class != classData {
		d.host, d.own = 0, false
	}
	return d
}

// reserved tells whether a cluster that an entry gives for data holds the header or one of the tables.
func (q *Image) reserved(host int64) bool {
	return host < q.ClusterSize() || host >= maxSize ||
		host >= q.refAt[0].Load() && host < q.refAt[1].Load()
}

// Map says where the bytes from off on are, at most n of them, without lock, allocation or I/O. With write they must be
// such that can be written in place. ok is false where it cannot say, or they are not that simple: Read and Write can.
// What it says holds until the Reader that entered before leaves.
func (q *Image) Map(off, n int64, write bool) (Extent, bool) {
	p := q.lookup(off, n)
	switch p.class {
	case classData:
		if write && (!p.own || q.bad.Load()) {
			return Extent{}, false
		}
		return Extent{Kind: Data, File: q.file, Off: p.host, Len: p.n}, true
	case classZero:
		return Extent{Kind: Zero, Len: p.n}, !write
	case classNone:
		if write {
			return Extent{}, false
		}
		b := q.opts.Backing
		if b == nil || off >= b.Size() {
			return Extent{Kind: Zero, Len: p.n}, true
		}
		return b.Map(off, min(p.n, b.Size()-off), false)
	}
	return Extent{}, false
}
