package domain

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"
)

//go:embed schema.txt
var schemaText string

// treatment is what virtd does with a word of the vocabulary.
type treatment uint8

const (
	honour treatment = iota
	refuse           // the guest would see or get something else
	keep             // no effect on the guest
	absent           // kept, but the guest does not get it
)

// word is one element of the vocabulary.
type word struct {
	name     string
	treat    treatment
	many     bool   // may be given more than once
	reason   string // why it is refused or not provided
	text     value  // what its text may be
	attrs    []attribute
	children []*word // in libvirt's order
}

// attribute is one attribute of an element.
type attribute struct {
	name  string
	treat treatment
	value value
}

// value restricts a text or an attribute's value. The zero value allows everything.
type value struct {
	kind string // "", uint, mac
	enum []choice
}

// choice is one value of an enumeration.
type choice struct {
	text  string
	treat treatment
}

// vocabulary returns the parsed schema.txt.
var vocabulary = sync.OnceValue(func() *word {
	w, err := parseSchema(schemaText)
	if err != nil {
		panic(err) // schema.txt is part of the program; a test reads it
	}
	return w
})

// parseSchema reads the language described at the top of schema.txt.
func parseSchema(text string) (*word, error) {
	top := &word{}
	groups := map[string]*word{}
	stack := []*word{top}
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimLeft(line, " ")
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		depth := (len(line) - len(trimmed)) / 2
		if depth >= len(stack) {
			return nil, fmt.Errorf("schema line %d: indented too deep", i+1)
		}
		w := parseWord(trimmed)
		if strings.HasPrefix(w.name, "(") && depth == 0 {
			groups[w.name] = w
		} else {
			stack[depth].children = append(stack[depth].children, w)
		}
		stack = append(stack[:depth+1], w)
	}
	if err := expand(top, groups); err != nil {
		return nil, err
	}
	if len(top.children) != 1 {
		return nil, fmt.Errorf("schema has %d root elements", len(top.children))
	}
	return top.children[0], nil
}

// expand puts each group's words where the group is named.
func expand(w *word, groups map[string]*word) error {
	var out []*word
	for _, c := range w.children {
		if !strings.HasPrefix(c.name, "(") {
			if err := expand(c, groups); err != nil {
				return err
			}
			out = append(out, c)
			continue
		}
		g := groups[c.name]
		if g == nil {
			return fmt.Errorf("schema has no group %s", c.name)
		}
		out = append(out, g.children...)
	}
	w.children = out
	return nil
}

func parseWord(line string) *word {
	line, reason, _ := strings.Cut(line, " -- ")
	fields := strings.Fields(line)
	head := parseAttribute(fields[0])
	w := &word{name: head.name, treat: head.treat, text: head.value, reason: reason}
	w.name, w.many = strings.CutSuffix(w.name, "*")
	for _, f := range fields[1:] {
		w.attrs = append(w.attrs, parseAttribute(f))
	}
	return w
}

// parseAttribute reads one field: [!~]name[:kind][=values].
func parseAttribute(field string) attribute {
	var a attribute
	a.treat, field = parseTreatment(field)
	field, values, _ := strings.Cut(field, "=")
	a.name, a.value.kind, _ = strings.Cut(field, ":")
	if values != "" {
		for _, v := range strings.Split(values, "|") {
			var c choice
			c.treat, c.text = parseTreatment(v)
			a.value.enum = append(a.value.enum, c)
		}
	}
	return a
}

func parseTreatment(s string) (treatment, string) {
	switch s[0] {
	case '!':
		return refuse, s[1:]
	case '~':
		return keep, s[1:]
	case '?':
		return absent, s[1:]
	}
	return honour, s
}

// child returns the word for a child element of that name, or nil.
func (w *word) child(name string) *word {
	for _, c := range w.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// attr returns the attribute of that name and its place in libvirt's order, or nil.
func (w *word) attr(name string) (*attribute, int) {
	i := slices.IndexFunc(w.attrs, func(a attribute) bool { return a.name == name })
	if i < 0 {
		return nil, len(w.attrs)
	}
	return &w.attrs[i], i
}

// names lists what an enumeration offers, for messages.
func (v value) names() string {
	var out []string
	for _, c := range v.enum {
		if c.treat != refuse && c.treat != absent {
			out = append(out, c.text)
		}
	}
	return strings.Join(out, ", ")
}
