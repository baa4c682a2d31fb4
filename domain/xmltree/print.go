package xmltree

import "strings"

// String prints the document in libvirt's style: two spaces a level, single quotes, <a/> for an empty element, no XML
// declaration, a newline at the end. What is inside <metadata> gets double quotes, as libvirt prints it.
func (d *Document) String() string {
	var p printer
	for _, n := range d.Before {
		p.line(n, 0)
	}
	p.line(d.Root, 0)
	for _, n := range d.After {
		p.line(n, 0)
	}
	return p.String()
}

// String prints n and everything below it, as Document.String does.
func (n *Node) String() string {
	p := printer{foreign: n.inMetadata()}
	p.line(n, 0)
	return p.String()
}

// Foreign prints n as String prints what is inside <metadata>: with double quotes.
func (n *Node) Foreign() string {
	p := printer{foreign: true}
	p.line(n, 0)
	return p.String()
}

// inMetadata reports whether n is below the root's <metadata>.
func (n *Node) inMetadata() bool {
	for e := n; e.parent != nil; e = e.parent {
		if isMetadata(e.parent) {
			return true
		}
	}
	return false
}

func isMetadata(n *Node) bool { return n.Is("metadata") && n.parent != nil && n.parent.parent == nil }

// printer collects text.
type printer struct {
	strings.Builder
	foreign bool // inside <metadata>
}

// line prints n on lines of its own.
func (p *printer) line(n *Node, depth int) {
	p.indent(depth)
	p.inline(n, depth, false)
	p.WriteByte('\n')
}

func (p *printer) indent(depth int) {
	for range depth {
		p.WriteString("  ")
	}
}

// inline prints n. Inside an element that holds text (mixed) layout is content, so none is added.
func (p *printer) inline(n *Node, depth int, mixed bool) {
	switch n.Kind {
	case Text:
		p.escape(n.Text, false)
	case Comment:
		p.WriteString("<!--" + n.Text + "-->")
	case ProcInst:
		p.WriteString("<?" + n.Name.Local)
		if n.Text != "" {
			p.WriteString(" " + n.Text)
		}
		p.WriteString("?>")
	case Element:
		p.element(n, depth, mixed)
	}
}

func (p *printer) element(n *Node, depth int, mixed bool) {
	p.WriteByte('<')
	p.WriteString(n.Name.String())
	for _, a := range n.Attrs {
		p.WriteByte(' ')
		p.WriteString(a.Name.String())
		p.WriteByte('=')
		p.quoted(a.Value)
	}
	if len(n.Children) == 0 {
		p.WriteString("/>")
		return
	}
	p.WriteByte('>')
	outside := p.foreign
	p.foreign = outside || isMetadata(n)
	p.children(n, depth, mixed)
	p.foreign = outside
	p.WriteString("</" + n.Name.String() + ">")
}

func (p *printer) children(n *Node, depth int, mixed bool) {
	for _, c := range n.Children {
		mixed = mixed || c.Kind == Text
	}
	if mixed {
		for _, c := range n.Children {
			p.inline(c, depth, true)
		}
		return
	}
	p.WriteByte('\n')
	for _, c := range n.Children {
		p.line(c, depth+1)
	}
	p.indent(depth)
}

func (p *printer) quoted(value string) {
	quote := byte('\'')
	if p.foreign {
		quote = '"'
	}
	p.WriteByte(quote)
	p.escape(value, true)
	p.WriteByte(quote)
}

// escape writes s so that it reads back the same. An XML reader would normalize carriage returns anywhere, and line ends
// and tabs in attributes. libvirt escapes quotes in text too, outside of metadata.
func (p *printer) escape(s string, attr bool) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '&':
			p.WriteString("&amp;")
		case c == '<':
			p.WriteString("&lt;")
		case c == '>':
			p.WriteString("&gt;")
		case c == '\'' && !p.foreign:
			p.WriteString("&apos;")
		case c == '"' && (attr || !p.foreign):
			p.WriteString("&quot;")
		case c == '\r':
			p.WriteString("&#xD;")
		case c == '\n' && attr:
			p.WriteString("&#xA;")
		case c == '\t' && attr:
			p.WriteString("&#x9;")
		default:
			p.WriteByte(c)
		}
	}
}
