package xmltree

import "strings"

// New returns an element without prefix. Attributes are given as name, value, name, value.
func New(name string, attrs ...string) *Node {
	n := &Node{Kind: Element, Name: Name{Local: name}}
	if len(attrs) > 1 {
		n.Attrs = make([]Attr, 0, len(attrs)/2)
	}
	for i := 0; i+1 < len(attrs); i += 2 {
		n.SetAttr(attrs[i], attrs[i+1])
	}
	return n
}

// NewText returns an element that holds only text.
func NewText(name, text string, attrs ...string) *Node {
	n := New(name, attrs...)
	n.SetContent(text)
	return n
}

// Clone returns a deep copy of n without parent. Positions are kept.
func (n *Node) Clone() *Node {
	c := *n
	c.parent = nil
	c.Attrs = append([]Attr(nil), n.Attrs...)
	c.Children = make([]*Node, len(n.Children))
	for i, child := range n.Children {
		c.Children[i] = child.Clone()
		c.Children[i].parent = &c
	}
	if len(c.Children) == 0 {
		c.Children = nil
	}
	return &c
}

// Clone returns a deep copy of the document.
func (d *Document) Clone() *Document {
	c := &Document{Root: d.Root.Clone()}
	for _, n := range d.Before {
		c.Before = append(c.Before, n.Clone())
	}
	for _, n := range d.After {
		c.After = append(c.After, n.Clone())
	}
	return c
}

// SetAttr sets the attribute without prefix of that name, in place if it exists, else at the end.
func (n *Node) SetAttr(name, value string) {
	for i := range n.Attrs {
		if n.Attrs[i].Name == (Name{Local: name}) {
			n.Attrs[i].Value = value
			return
		}
	}
	n.Attrs = append(n.Attrs, Attr{Name{Local: name}, value})
}

// RemoveAttr removes the attribute without prefix of that name and reports whether there was one.
func (n *Node) RemoveAttr(name string) bool {
	for i := range n.Attrs {
		if n.Attrs[i].Name == (Name{Local: name}) {
			n.Attrs = append(n.Attrs[:i:i], n.Attrs[i+1:]...)
			return true
		}
	}
	return false
}

// SetContent replaces everything inside n by text.
func (n *Node) SetContent(text string) {
	n.Children = nil
	if text != "" {
		n.Children = []*Node{{Kind: Text, Text: text, parent: n}}
	}
}

// Append puts child at the end of n, taking it out of where it was, and returns it.
func (n *Node) Append(child *Node) *Node { return n.InsertAt(len(n.Children), child) }

// InsertAt puts child before n.Children[i], taking it out of where it was, and returns it. White space that was n's whole
// content goes away.
func (n *Node) InsertAt(i int, child *Node) *Node {
	child.Remove()
	if len(n.Children) == 1 && n.Children[0].Kind == Text && strings.TrimSpace(n.Children[0].Text) == "" {
		n.Children, i = nil, 0
	}
	i = min(i, len(n.Children))
	n.Children = append(n.Children, nil)
	copy(n.Children[i+1:], n.Children[i:])
	n.Children[i] = child
	child.parent = n
	return child
}

// Remove takes n out of its parent. It does nothing at the root and on nil.
func (n *Node) Remove() {
	if n == nil || n.parent == nil {
		return
	}
	p := n.parent
	for i, c := range p.Children {
		if c == n {
			p.Children = append(p.Children[:i:i], p.Children[i+1:]...)
			break
		}
	}
	n.parent = nil
}

// Replace puts with into n's place. n must have a parent.
func (n *Node) Replace(with *Node) {
	p := n.parent
	for i, c := range p.Children {
		if c == n {
			p.Children[i], with.parent, n.parent = with, p, nil
			return
		}
	}
}

// RemoveAll removes every child element of that name without prefix.
func (n *Node) RemoveAll(name string) {
	for _, c := range n.All(name) {
		c.Remove()
	}
}

// Ensure returns the first child element of that name, appending an empty one if there is none.
func (n *Node) Ensure(name string) *Node {
	if c := n.Child(name); c != nil {
		return c
	}
	return n.Append(New(name))
}

// Walk calls f for n and everything below it, parents first, until f returns an error, which it returns.
func (n *Node) Walk(f func(*Node) error) error {
	if err := f(n); err != nil {
		return err
	}
	for _, c := range n.Children {
		if err := c.Walk(f); err != nil {
			return err
		}
	}
	return nil
}

// TrimSpace removes the text of elements below n that hold nothing but white space, except inside elements for which
// keep returns true.
func (n *Node) TrimSpace(keep func(*Node) bool) {
	if n.Kind != Element || keep != nil && keep(n) {
		return
	}
	if len(n.Children) == 1 && n.Children[0].Kind == Text && strings.TrimSpace(n.Children[0].Text) == "" {
		n.Children = nil
	}
	for _, c := range n.Children {
		c.TrimSpace(keep)
	}
}
