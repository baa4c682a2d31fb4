package qcow2

import (
	"encoding/binary"
	"sync/atomic"
)

// page is a piece of an L2 table or a refcount block in memory. Its words may be read by anyone at any time, between two
// looks at gen that are equal and even (a seqlock); they are written by the holder of Image.mu.
type page struct {
	gen   atomic.Uint64
	off   atomic.Int64 // in the file, 0 for none
	words []atomic.Uint64
	dirty bool
	used  atomic.Bool // since the last look for a victim
}

// begin and end enclose a change of more than one word, or of what the words belong to.
func (p *page) begin() { p.gen.Add(1) }
func (p *page) end()   { p.gen.Add(1) }

const ways = 8

// cache holds pages by offset. find needs no lock; the rest is under Image.mu.
type cache struct {
	file  File
	bytes int64 // of a page
	sets  [][ways]atomic.Pointer[page]
	dirty []*page // in no order
	hand  int
	buf   []byte
}

// newCache makes a cache of at most limit bytes for total bytes of tables. Pages are allocated when they are first used.
func newCache(f File, pageBytes, total, limit int64) *cache {
	pages := max(min(total, limit)/pageBytes, ways)
	n := int64(1)
	for n*ways < pages {
		n *= 2
	}
	return &cache{file: f, bytes: pageBytes, sets: make([][ways]atomic.Pointer[page], n), buf: make([]byte, pageBytes)}
}

func (c *cache) set(off int64) *[ways]atomic.Pointer[page] {
	return &c.sets[uint64(off/c.bytes)*0x9e3779b97f4a7c15>>32&uint64(len(c.sets)-1)]
}

// find returns the page at off, nil if it is not in memory.
func (c *cache) find(off int64) *page {
	s := c.set(off)
	for i := range s {
		if p := s[i].Load(); p != nil && p.off.Load() == off {
			if !p.used.Load() {
				p.used.Store(true)
			}
			return p
		}
	}
	return nil
}

// victim returns a page of off's set that can be used for something else, nil if all of them are dirty.
func (c *cache) victim(off int64) *page {
	s := c.set(off)
	for i := range s {
		if s[i].Load() == nil {
			p := &page{words: make([]atomic.Uint64, c.bytes/8)}
			s[i].Store(p)
			return p
		}
	}
	for range 2 * ways {
		c.hand++
		p := s[c.hand%ways].Load()
		if !p.dirty && !p.used.Swap(false) {
			return p
		}
	}
	for i := range s {
		if p := s[i].Load(); !p.dirty {
			return p
		}
	}
	return nil
}

// fill makes p the page at off, with what the file has there.
func (c *cache) fill(p *page, off int64) error {
	if err := c.file.Read(c.buf, off); err != nil {
		return err
	}
	p.begin()
	for i := range p.words {
		p.words[i].Store(binary.BigEndian.Uint64(c.buf[8*i:]))
	}
	p.off.Store(off)
	p.end()
	p.used.Store(true)
	return nil
}

// forget drops the pages of a range, changed or not: the range is written by other means.
func (c *cache) forget(off, n int64) {
	for at := off; at < off+n; at += c.bytes {
		if p := c.find(at); p != nil {
			p.begin()
			p.off.Store(0)
			p.end()
			c.clean(p)
		}
	}
}

func (c *cache) clean(p *page) {
	if !p.dirty {
		return
	}
	p.dirty = false
	for i, d := range c.dirty {
		if d == p {
			c.dirty[i] = c.dirty[len(c.dirty)-1]
			c.dirty = c.dirty[:len(c.dirty)-1]
			return
		}
	}
}

// changed marks p.
func (c *cache) changed(p *page) {
	if !p.dirty {
		p.dirty = true
		c.dirty = append(c.dirty, p)
	}
}

// writeBack writes every changed page to the file. What fails stays changed.
func (c *cache) writeBack() (wrote bool, err error) {
	for len(c.dirty) > 0 {
		p := c.dirty[len(c.dirty)-1]
		for i := range p.words {
			binary.BigEndian.PutUint64(c.buf[8*i:], p.words[i].Load())
		}
		if err := c.file.Write(c.buf, p.off.Load()); err != nil {
			return wrote, err
		}
		wrote, p.dirty = true, false
		c.dirty = c.dirty[:len(c.dirty)-1]
	}
	return wrote, nil
}
