package xmltree

import "sync"

// String prints the document in libvirt's style: two spaces a level, single quotes, <a/> for an empty element, no XML
// declaration, a newline at the end. What is inside <metadata> gets double quotes, as libvirt prints it.
func (d *Document) String() string {
	return print(false, func(p *printer) {
		for _, n := range d.Before {
			p.line(n, 0)
		}
		p.line(d.Root, 0)
		for _, n := range d.After {
			p.line(n, 0)
		}
	})
}

// String prints n and everything below it, as Document.String does.
func (n *Node) String() string {
	return print(n.inMetadata(), func(p *printer) { p.line(n, 0) })
}

// Foreign prints n as String prints what is inside <metadata>: with double quotes.
func (n *Node) Foreign() string {
	return print(true, func(p *printer) { p.line(n, 0) })
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
	text    []byte
	foreign bool // inside <metadata>
}

// printers have room from what was printed before.
var printers = sync.Pool{New: func() any { return &printer{text: make([]byte, 0, 4<<10)} }}

// keepText is the largest room that is kept, in bytes.
const keepText = 64 << 10

func print(foreign bool, f func(*printer)) string {
	p := printers.Get().(*printer)
	p.text, p.foreign = p.text[:0], foreign
	f(p)
	text := string(p.text)
	if cap(p.text) <= keepText {
		clear(p.text) // it may hold secrets
		printers.Put(p)
	}
	return text
}

func (p *printer) add(text string) { p.text = append(p.text, text...) }

func (p *printer) name(n Name) {
	if n.Prefix != "" {
		p.add(n.Prefix)
		p.add(":")
	}
	p.add(n.Local)
}

// line prints n on lines of its own.
func (p *printer) line(n *Node, depth int) {
	p.indent(depth)
	p.inline(n, depth, false)
	p.add("\n")
}

func (p *printer) indent(depth int) {
	for range depth {
		p.add("  ")
	}
}

// inline prints n. Inside an element that holds text (mixed) layout is content, so none is added.
func (p *printer) inline(n *Node, depth int, mixed bool) {
	switch n.Kind {
	case Text:
		p.escape(n.Text, false)
	case Comment:
		p.add("<!--")
		p.add(n.Text)
		p.add("-->")
	case ProcInst:
		p.add("<?")
		p.add(n.Name.Local)
		if n.Text != "" {
			p.add(" ")
			p.add(n.Text)
		}
		p.add("?>")
	case Element:
		p.element(n, depth, mixed)
	}
}

func (p *printer) element(n *Node, depth int, mixed bool) {
	p.add("<")
	p.name(n.Name)
	for _, a := range n.Attrs {
		p.add(" ")
		p.name(a.Name)
		p.add("=")
		p.quoted(a.Value)
	}
	if len(n.Children) == 0 {
		p.add("/>")
		return
	}
	p.add(">")
	outside := p.foreign
	p.foreign = outside || isMetadata(n)
	p.children(n, depth, mixed)
	p.foreign = outside
	p.add("</")
	p.name(n.Name)
	p.add(">")
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
	p.add("\n")
	for _, c := range n.Children {
		p.line(c, depth+1)
	}
	p.indent(depth)
}

func (p *printer) quoted(value string) {
	quote := "'"
	if p.foreign {
		quote = `"`
	}
	p.add(quote)
	p.escape(value, true)
	p.add(quote)
}

// escape writes s so that it reads back the same. An XML reader would normalize carriage returns anywhere, and line ends
// and tabs in attributes. libvirt escapes quotes in text too, outside of metadata.
func (p *printer) escape(s string, attr bool) {
	done := 0 // of s
	for i := 0; i < len(s); i++ {
		if plain[s[i]] {
			continue
		}
		if with := p.escaped(s[i], attr); with != "" {
			p.add(s[done:i])
			p.add(with)
			done = i + 1
		}
	}
	p.add(s[done:])
}

// plain are the characters that are never escaped.
var plain = func() (list [256]bool) {
	for c := range list {
		list[c] = true
	}
	for _, c := range "&<>'\"\r\n\t" {
		list[c] = false
	}
	return list
}()

// escaped returns what stands for a character, or "" for itself.
func (p *printer) escaped(c byte, attr bool) string {
	switch {
	case c == '&':
		return "&amp;"
	case c == '<':
		return "&lt;"
	case c == '>':
		return "&gt;"
	case c == '\'' && !p.foreign:
		return "&apos;"
	case c == '"' && (attr || !p.foreign):
		return "&quot;"
	case c == '\r':
		return "&#xD;"
	case c == '\n' && attr:
		return "&#xA;"
	case c == '\t' && attr:
		return "&#x9;"
	}
	return ""
}
