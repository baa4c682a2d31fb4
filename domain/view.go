package domain

import (
	"hash/maphash"
	"sync"

	"libvirt.org/go/libvirtxml"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// View returns the typed view, without the text of metadata. It is made when it is first asked for: of the definitions
// that a host keeps most are off, and nobody looks at theirs. The caller must not change it.
func (d *Definition) View() *libvirtxml.Domain {
	if v := d.view.Load(); v != nil {
		return v
	}
	v := &libvirtxml.Domain{}
	_ = d.doc.Decode(v) // typed has tried it
	d.view.CompareAndSwap(nil, v)
	return d.view.Load()
}

// typed makes sure that the tree has a typed view.
func (d *Definition) typed() error {
	shape := shapeOf(d.doc)
	if shapes.knows(shape) {
		return nil
	}
	view := &libvirtxml.Domain{}
	if err := d.doc.Decode(view); err != nil {
		return virterr.NewFrom(virterr.FromDomain, virterr.XMLError, "cannot read domain %q: %w", d.name, err)
	}
	d.view.Store(view)
	shapes.add(shape)
	return nil
}

// shapes are the shapes of documents that have a typed view. To make one takes as long as all else that is done with a
// document, and a host's domains are of few shapes.
var shapes = shapeSet{seed: maphash.MakeSeed(), known: map[uint64]struct{}{}}

// maxShapes is how many shapes are remembered. With more they are forgotten, all at once.
const maxShapes = 512

type shapeSet struct {
	seed  maphash.Seed
	mu    sync.Mutex
	known map[uint64]struct{}
}

func (s *shapeSet) knows(shape uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.known[shape]
	return ok
}

func (s *shapeSet) add(shape uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxShapes {
		clear(s.known)
	}
	s.known[shape] = struct{}{}
}

// shapeOf returns what tells documents apart of which one may have a typed view and the other not: everything but which
// small number or which text stands where every number or text would do.
func shapeOf(doc *xmltree.Document) uint64 {
	var room [8 << 10]byte // most documents' shapes; others are allocated
	return maphash.Bytes(shapes.seed, appendShape(room[:0], doc.Root))
}

// Marks of a shape. No document has these characters, so that no value is taken for the next name.
const (
	markElement = iota + 1
	markAttr
	markValue
	markText
	markNumber
	markEnd
)

func appendShape(b []byte, n *xmltree.Node) []byte {
	b = appendName(append(b, markElement), n.Name)
	for _, a := range n.Attrs {
		b = appendName(append(b, markAttr), a.Name)
		if !freeAttr(a.Name) {
			b = appendValue(append(b, markValue), a.Value)
		}
	}
	free := freeText(n)
	for _, c := range n.Children {
		switch {
		case c.Kind == xmltree.Element && !n.Is("metadata"):
			b = appendShape(b, c)
		case c.Kind == xmltree.Text && !free:
			b = appendValue(append(b, markText), c.Text)
		}
	}
	return append(b, markEnd)
}

func appendName(b []byte, n xmltree.Name) []byte {
	b = append(b, n.Prefix...)
	b = append(b, ':')
	return append(b, n.Local...)
}

// appendValue makes all small numbers the same: what is a number in the view holds each of them.
func appendValue(b []byte, s string) []byte {
	if smallNumber(s) {
		return append(b, markNumber)
	}
	return append(b, s...)
}

// smallNumber reports whether s is a number below 10^9 as strconv writes it.
func smallNumber(s string) bool {
	if len(s) == 0 || len(s) > 9 || s[0] == '0' && len(s) > 1 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// freeAttr reports whether an attribute is text wherever the typed view has it, and no reader of the view decides by it.
func freeAttr(n xmltree.Name) bool {
	if n.Prefix != "" {
		return false
	}
	switch n.Local {
	case "address", "bridge", "dev", "file", "network", "path", "pool", "volume":
		return true
	}
	return false
}

// freeText reports the same of an element's text.
func freeText(n *xmltree.Node) bool {
	parent := n.Parent()
	switch {
	case n.Name.Prefix != "" || parent == nil:
		return false
	case parent.Parent() == nil:
		switch n.Name.Local {
		case "name", "uuid", "title", "description", "metadata":
			return true
		}
	case parent.Is("os"):
		switch n.Name.Local {
		case "kernel", "initrd", "cmdline":
			return true
		}
	}
	return false
}
