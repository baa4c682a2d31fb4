package xmltree

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"virtd/virterr"
)

// Limits of one document. libvirt's clients send strings of at most 4 MiB.
const (
	MaxSize     = 4 << 20 // bytes
	MaxDepth    = 64      // nested elements
	MaxElements = 50_000  // elements, comments and texts together
	MaxAttrs    = 256     // attributes of one element
)

// Parse reads one document. The error is a *virterr.Error with code XMLError that says line and column.
func Parse(text []byte) (*Document, error) {
	if len(text) > MaxSize {
		return nil, virterr.NewFrom(virterr.FromXML, virterr.XMLError,
			"document of %d bytes is larger than the limit of %d", len(text), MaxSize)
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i] // C clients never send more; what follows cannot be XML
	}
	p := parser{dec: xml.NewDecoder(bytes.NewReader(text)), doc: &Document{}, scope: map[string]int{"": 1, "xml": 1}}
	if err := p.run(); err != nil {
		return nil, err
	}
	return p.doc, nil
}

// parser builds a tree from the tokens of one document.
type parser struct {
	dec   *xml.Decoder
	doc   *Document
	open  *Node           // innermost element that is not closed
	chars strings.Builder // text under open that no other token ended yet: CDATA sections arrive as tokens of their own
	scope map[string]int  // how many open elements declare each namespace prefix
	depth int
	count int
	line  int // where the token under way began
	col   int
}

// Errorf returns a *virterr.Error of that code whose text starts with the node's position, if it has one.
func (n *Node) Errorf(code virterr.Code, format string, args ...any) error {
	return at(code, n.Line, n.Col, format, args...)
}

func at(code virterr.Code, line, col int, format string, args ...any) error {
	if line == 0 {
		return virterr.NewFrom(virterr.FromDomain, code, format, args...)
	}
	return virterr.NewFrom(virterr.FromDomain, code, "line %d, column %d: "+format, append([]any{line, col}, args...)...)
}

func (p *parser) errorf(format string, args ...any) error {
	err := at(virterr.XMLError, p.line, p.col, format, args...)
	err.(*virterr.Error).From = virterr.FromXML
	return err
}

func (p *parser) run() error {
	for {
		p.line, p.col = p.dec.InputPos()
		tok, err := p.dec.RawToken()
		if errors.Is(err, io.EOF) {
			return p.end()
		}
		if err != nil {
			return p.syntax(err)
		}
		if err := p.token(tok); err != nil {
			return err
		}
	}
}

// syntax words the decoder's error. The decoder's position is where it gave up, which is where the reader should look.
func (p *parser) syntax(err error) error {
	p.line, p.col = p.dec.InputPos()
	var s *xml.SyntaxError
	if errors.As(err, &s) {
		return p.errorf("%s", strings.TrimPrefix(s.Msg, "xml: "))
	}
	return p.errorf("%s", strings.TrimPrefix(err.Error(), "xml: "))
}

func (p *parser) end() error {
	switch {
	case p.open != nil:
		return p.errorf("element <%s> of line %d, column %d is not closed", p.open.Name, p.open.Line, p.open.Col)
	case p.doc.Root == nil:
		return p.errorf("document has no element")
	}
	return nil
}

func (p *parser) token(tok xml.Token) error {
	if _, ok := tok.(xml.CharData); !ok && p.chars.Len() > 0 {
		if err := p.add(&Node{Kind: Text, Text: p.chars.String()}); err != nil {
			return err
		}
		p.chars.Reset()
	}
	switch t := tok.(type) {
	case xml.StartElement:
		return p.start(t)
	case xml.EndElement:
		return p.close(t)
	case xml.CharData:
		return p.text(string(t))
	case xml.Comment:
		return p.add(&Node{Kind: Comment, Text: string(t)})
	case xml.ProcInst:
		if t.Target == "xml" {
			return nil // the declaration; we always write UTF-8 without one, as libvirt does
		}
		return p.add(&Node{Kind: ProcInst, Name: Name{Local: t.Target}, Text: string(t.Inst)})
	case xml.Directive:
		return p.errorf("document type declarations are not accepted")
	}
	return nil
}

// add puts n under the open element or beside the root.
func (p *parser) add(n *Node) error {
	if p.count++; p.count > MaxElements {
		return p.errorf("document has more than %d elements", MaxElements)
	}
	n.Line, n.Col, n.parent = p.line, p.col, p.open
	switch {
	case p.open != nil:
		p.open.Children = append(p.open.Children, n)
	case n.Kind == Element:
		p.doc.Root = n
	case p.doc.Root == nil:
		p.doc.Before = append(p.doc.Before, n)
	default:
		p.doc.After = append(p.doc.After, n)
	}
	return nil
}

func (p *parser) start(t xml.StartElement) error {
	n := &Node{Kind: Element, Name: Name{t.Name.Space, t.Name.Local}}
	if p.open == nil && p.doc.Root != nil {
		return p.errorf("unexpected second element <%s> after the end of <%s>", n.Name, p.doc.Root.Name)
	}
	if p.depth++; p.depth > MaxDepth {
		return p.errorf("elements are nested deeper than %d", MaxDepth)
	}
	if len(t.Attr) > MaxAttrs {
		return p.errorf("element <%s> has more than %d attributes", n.Name, MaxAttrs)
	}
	if len(t.Attr) > 0 {
		n.Attrs = make([]Attr, len(t.Attr))
	}
	for i, a := range t.Attr {
		n.Attrs[i] = Attr{Name{a.Name.Space, a.Name.Local}, a.Value}
	}
	if twice, ok := repeated(n.Attrs); ok {
		return p.errorf("attribute %s of <%s> is given twice", twice, n.Name)
	}
	if err := p.add(n); err != nil {
		return err
	}
	p.open = n
	return p.prefixes(n)
}

// repeated returns the first name that more than one attribute has.
func repeated(attrs []Attr) (Name, bool) {
	if len(attrs) > 16 {
		seen := make(map[Name]bool, len(attrs))
		for _, a := range attrs {
			if seen[a.Name] {
				return a.Name, true
			}
			seen[a.Name] = true
		}
		return Name{}, false
	}
	for i, a := range attrs {
		for _, b := range attrs[:i] {
			if a.Name == b.Name {
				return a.Name, true
			}
		}
	}
	return Name{}, false
}

// prefixes refuses a prefix that nothing declares: the document would not survive being printed and read again.
func (p *parser) prefixes(n *Node) error {
	for _, a := range n.Attrs {
		if a.Name.Prefix == "xmlns" {
			p.scope[a.Name.Local]++
		}
	}
	if p.scope[n.Name.Prefix] == 0 {
		return p.errorf("namespace prefix %s of <%s> is not declared", n.Name.Prefix, n.Name)
	}
	for _, a := range n.Attrs {
		if !a.isNamespace() && p.scope[a.Name.Prefix] == 0 {
			return p.errorf("namespace prefix %s of attribute %s in <%s> is not declared", a.Name.Prefix, a.Name, n.Name)
		}
	}
	return nil
}

func (p *parser) close(t xml.EndElement) error {
	name := Name{t.Name.Space, t.Name.Local}
	if p.open == nil {
		return p.errorf("unexpected </%s>", name)
	}
	if p.open.Name != name {
		return p.errorf("</%s> does not close <%s> of line %d, column %d", name, p.open.Name, p.open.Line, p.open.Col)
	}
	for _, a := range p.open.Attrs {
		if a.Name.Prefix == "xmlns" {
			p.scope[a.Name.Local]--
		}
	}
	dropIndent(p.open)
	p.open, p.depth = p.open.parent, p.depth-1
	return nil
}

func (p *parser) text(s string) error {
	if p.open == nil {
		if strings.TrimSpace(s) != "" {
			return p.errorf("text outside of the document's element")
		}
		return nil
	}
	p.chars.WriteString(s)
	return nil
}

// dropIndent removes white space between the children of an element that holds no other text: it is layout, and the
// printer makes its own. An element without child elements keeps its text as it is.
func dropIndent(n *Node) {
	nested := false
	for _, c := range n.Children {
		if c.Kind == Text && strings.TrimSpace(c.Text) != "" {
			return
		}
		nested = nested || c.Kind != Text
	}
	if !nested {
		return
	}
	kept := n.Children[:0]
	for _, c := range n.Children {
		if c.Kind != Text {
			kept = append(kept, c)
		}
	}
	n.Children = kept
}
