package xmltree

import "strings"

// Kind is what a Node is.
type Kind uint8

// The kinds of nodes.
const (
	Element Kind = iota
	Text
	Comment
	ProcInst // <?target text?>; Name.Local is the target
)

// Name is an element's or attribute's name as written: the prefix is kept, not resolved.
type Name struct {
	Prefix string // "" for none
	Local  string
}

// String returns the name as it stands in the document.
func (n Name) String() string {
	if n.Prefix == "" {
		return n.Local
	}
	return n.Prefix + ":" + n.Local
}

// Attr is one attribute. Namespace declarations are attributes too: {"", "xmlns"} and {"xmlns", prefix}.
type Attr struct {
	Name  Name
	Value string
}

// isNamespace reports whether the attribute declares a namespace.
func (a Attr) isNamespace() bool {
	return a.Name.Prefix == "xmlns" || a.Name.Prefix == "" && a.Name.Local == "xmlns"
}

// Node is one node of a document. A Node belongs to one parent; use Clone to put a copy elsewhere. Nodes are not safe for
// concurrent change; reading from several goroutines is.
type Node struct {
	Kind     Kind
	Name     Name    // of an Element; target of a ProcInst
	Attrs    []Attr  // of an Element, in document order
	Children []*Node // of an Element, in document order
	Text     string  // of Text, Comment and ProcInst, unescaped

	// Line and Col say where the node began in the text that was parsed, from 1; Col counts bytes. 0 for nodes made by
	// edits.
	Line, Col int

	parent *Node
}

// Document is a root element and the comments and processing instructions around it.
type Document struct {
	Before []*Node
	Root   *Node
	After  []*Node
}

// Parent returns the element that holds n, or nil at the root.
func (n *Node) Parent() *Node { return n.parent }

// Path returns where an element is in its document, for messages: domain/devices/disk.
func (n *Node) Path() string {
	if n.parent == nil {
		return n.Name.String()
	}
	return n.parent.Path() + "/" + n.Name.String()
}

// Is reports whether n is an element without prefix of that name.
func (n *Node) Is(local string) bool {
	return n.Kind == Element && n.Name.Prefix == "" && n.Name.Local == local
}

// Elements returns n's child elements in order. It may be called on nil.
func (n *Node) Elements() []*Node {
	if n == nil {
		return nil
	}
	var out []*Node
	for _, c := range n.Children {
		if c.Kind == Element {
			out = append(out, c)
		}
	}
	return out
}

// Child returns the first element reached by following names from n, or nil. Child() is n itself. It may be called on
// nil, so that lookups chain.
func (n *Node) Child(names ...string) *Node {
	for _, name := range names {
		if n == nil {
			return nil
		}
		var next *Node
		for _, c := range n.Children {
			if c.Is(name) {
				next = c
				break
			}
		}
		n = next
	}
	return n
}

// All returns every child element of that name, without prefix, in order. It may be called on nil.
func (n *Node) All(name string) []*Node {
	if n == nil {
		return nil
	}
	var out []*Node
	for _, c := range n.Children {
		if c.Is(name) {
			out = append(out, c)
		}
	}
	return out
}

// Attr returns the value of the attribute without prefix of that name, "" if there is none. It may be called on nil.
func (n *Node) Attr(name string) string {
	v, _ := n.LookupAttr(name)
	return v
}

// LookupAttr is Attr that tells an empty value from a missing attribute.
func (n *Node) LookupAttr(name string) (string, bool) {
	if n == nil {
		return "", false
	}
	for _, a := range n.Attrs {
		if a.Name.Prefix == "" && a.Name.Local == name {
			return a.Value, true
		}
	}
	return "", false
}

// Content returns the text directly inside n, untrimmed. It may be called on nil.
func (n *Node) Content() string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	for _, c := range n.Children {
		if c.Kind == Text {
			b.WriteString(c.Text)
		}
	}
	return b.String()
}

// Trimmed is Content without white space around it.
func (n *Node) Trimmed() string { return strings.TrimSpace(n.Content()) }

// Namespace returns the URI that a prefix stands for at n, and whether it is declared. The prefix "" is the default
// namespace, which is "" unless declared.
func (n *Node) Namespace(prefix string) (string, bool) {
	want := Name{"xmlns", prefix}
	switch prefix {
	case "xml":
		return "http://www.w3.org/XML/1998/namespace", true
	case "":
		want = Name{"", "xmlns"}
	}
	for e := n; e != nil; e = e.parent {
		for _, a := range e.Attrs {
			if a.Name == want {
				return a.Value, true
			}
		}
	}
	return "", prefix == ""
}

// Equal reports whether two nodes have the same content, in the same order. Positions and white space between elements
// do not count; comments do.
func (n *Node) Equal(m *Node) bool {
	if n == nil || m == nil {
		return n == m
	}
	if n.Kind != m.Kind || n.Name != m.Name || n.Text != m.Text ||
		len(n.Attrs) != len(m.Attrs) || len(n.Children) != len(m.Children) {
		return false
	}
	for i := range n.Attrs {
		if n.Attrs[i] != m.Attrs[i] {
			return false
		}
	}
	for i := range n.Children {
		if !n.Children[i].Equal(m.Children[i]) {
			return false
		}
	}
	return true
}

// Equal reports whether two documents have the same content; see Node.Equal.
func (d *Document) Equal(e *Document) bool {
	return equalAll(d.Before, e.Before) && d.Root.Equal(e.Root) && equalAll(d.After, e.After)
}

func equalAll(a, b []*Node) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}
