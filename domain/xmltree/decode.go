package xmltree

import (
	"encoding/xml"
	"io"
)

// Decode reads the document into v as xml.Unmarshal reads its text, without printing and parsing it. What has the option
// ",innerxml" stays empty: there is no text.
func (d *Document) Decode(v any) error {
	return xml.NewTokenDecoder(&tokens{next: d.Root}).Decode(v)
}

// tokens walks a tree as package xml's decoder wants it: names with their prefixes, as written.
type tokens struct {
	next *Node // an element that is to begin; nil: go on in open
	open []place
}

// place is an element that has begun, and how many of its children are behind us.
type place struct {
	n    *Node
	done int
}

// Token implements xml.TokenReader.
func (t *tokens) Token() (xml.Token, error) {
	if n := t.next; n != nil {
		t.next = nil
		t.open = append(t.open, place{n: n})
		start := xml.StartElement{Name: rawName(n.Name)}
		if len(n.Attrs) > 0 {
			start.Attr = make([]xml.Attr, len(n.Attrs)) // the decoder resolves prefixes in it
		}
		for i, a := range n.Attrs {
			start.Attr[i] = xml.Attr{Name: rawName(a.Name), Value: a.Value}
		}
		return start, nil
	}
	for len(t.open) > 0 {
		in := &t.open[len(t.open)-1]
		if in.done == len(in.n.Children) {
			t.open = t.open[:len(t.open)-1]
			return xml.EndElement{Name: rawName(in.n.Name)}, nil
		}
		c := in.n.Children[in.done]
		in.done++
		switch c.Kind {
		case Element:
			t.next = c
			return t.Token()
		case Text:
			return xml.CharData(c.Text), nil
		}
	}
	return nil, io.EOF
}

func rawName(n Name) xml.Name { return xml.Name{Space: n.Prefix, Local: n.Local} }
