package domain

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// checker walks a document with the vocabulary.
type checker struct {
	validate bool
	stored   bool
}

// check refuses what the vocabulary refuses and what is malformed below root.
func (w *word) check(root *xmltree.Node, opts Options) error {
	c := checker{validate: opts.Validate, stored: opts.Stored}
	return c.element(w, root)
}

// element checks n, which w describes, and everything below it.
func (c checker) element(w *word, n *xmltree.Node) error {
	if err := c.attributes(w, n); err != nil {
		return err
	}
	if err := c.text(w, n); err != nil {
		return err
	}
	if w.treat == keep || w.name == "metadata" || w.absent(n) {
		return nil
	}
	var once []*xmltree.Node // the children so far that may be given once
	for _, child := range n.Children {
		if child.Kind != xmltree.Element {
			continue
		}
		single, err := c.child(w, child, once)
		if err != nil {
			return err
		}
		if single {
			once = append(once, child)
		}
	}
	return nil
}

// child checks one child element of an element that w describes. once are those before it that may be given once; single
// reports whether it is one of them.
func (c checker) child(w *word, n *xmltree.Node, once []*xmltree.Node) (single bool, err error) {
	if n.Name.Prefix != "" || defaultNamespace(n) != "" {
		return false, c.foreign(n)
	}
	known := w.child(n.Name.Local)
	if known == nil {
		if c.validate {
			return false, n.Errorf(virterr.XMLInvalidSchema, "element <%s> is not known in <%s> (%s)", n.Name, w.name, n.Path())
		}
		return false, nil
	}
	single = !known.many && known.treat == honour
	if single {
		for _, first := range once {
			if first.Is(known.name) {
				return true, n.Errorf(virterr.XMLError, "element <%s> is given twice in <%s>, first in line %d, column %d",
					n.Name, w.name, first.Line, first.Col)
			}
		}
	}
	if known.treat == refuse && !c.stored {
		return single, n.Errorf(virterr.ConfigUnsupported, "element <%s> (%s) is not supported%s", n.Name, n.Path(), because(known.reason))
	}
	return single, c.element(known, n)
}

func because(reason string) string {
	if reason == "" {
		return "; remove it"
	}
	return ": " + reason
}

// foreign decides on elements in a namespace. QEMU's command line asks for something that only QEMU can give; other
// namespaces say nothing to us.
func (c checker) foreign(n *xmltree.Node) error {
	const qemu = "http://libvirt.org/schemas/domain/qemu/1.0"
	uri, _ := n.Namespace(n.Name.Prefix)
	if c.validate && (n.Parent().Parent() != nil || !strings.HasPrefix(uri, "http://libvirt.org/schemas/domain/")) {
		return n.Errorf(virterr.XMLInvalidSchema, "element <%s> of namespace '%s' (%s) may stand in <metadata> only", n.Name, uri, n.Path())
	}
	if uri != qemu || c.stored {
		return nil
	}
	switch n.Name.Local {
	case "commandline", "override":
		for _, e := range n.Elements() {
			return e.Errorf(virterr.ConfigUnsupported, "element <%s> (%s) is not supported: there is no QEMU to pass it to",
				e.Name, e.Path())
		}
	}
	return nil
}

func (c checker) attributes(w *word, n *xmltree.Node) error {
	for _, a := range n.Attrs {
		if a.Name.Prefix != "" || a.Name.Local == "xmlns" {
			if c.validate && a.Name.Prefix != "" && a.Name.Prefix != "xmlns" {
				return n.Errorf(virterr.XMLInvalidSchema, "attribute %s of <%s> (%s) is of a namespace", a.Name, n.Name, n.Path())
			}
			continue
		}
		known, _ := w.attr(a.Name.Local)
		if known == nil {
			if c.validate && w.treat != keep && w.treat != absent {
				return n.Errorf(virterr.XMLInvalidSchema, "attribute %s is not known in <%s> (%s)", a.Name, n.Name, n.Path())
			}
			continue
		}
		if known.treat == refuse && !c.stored {
			return n.Errorf(virterr.ConfigUnsupported, "attribute %s='%s' of <%s> (%s) is not supported%s",
				a.Name, a.Value, n.Name, n.Path(), because(w.reason))
		}
		if known.treat != keep {
			if err := c.value(n, "attribute '"+known.name+"' of", known.value, a.Value, w.reason); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c checker) text(w *word, n *xmltree.Node) error {
	if text := n.Trimmed(); c.validate && text != "" && w.treat != keep && len(w.children) > 0 {
		return n.Errorf(virterr.XMLInvalidSchema, "text '%s' in <%s> (%s), which has only elements", text, n.Name, n.Path())
	}
	if w.treat == keep || w.text.kind == "" && w.text.enum == nil {
		return nil
	}
	return c.value(n, "text of", w.text, n.Trimmed(), w.reason)
}

// value checks one value against its restriction. what says where it stands: "text of", "attribute 'x' of".
func (c checker) value(n *xmltree.Node, what string, v value, got, reason string) error {
	switch v.kind {
	case "uint":
		if _, err := strconv.ParseUint(strings.TrimSpace(got), 0, 32); err != nil {
			return n.Errorf(virterr.XMLError, "invalid %s <%s>: '%s' is not a number of 32 bits", what, n.Name, got)
		}
	case "mac":
		if _, err := parseMAC(got); err != nil {
			return n.Errorf(virterr.XMLError, "unable to parse mac address '%s' (%s)", got, n.Path())
		}
	}
	if v.enum == nil {
		return nil
	}
	i := slices.IndexFunc(v.enum, func(c choice) bool { return c.text == got })
	switch {
	case i < 0:
		return n.Errorf(virterr.XMLError, "invalid %s <%s> (%s): '%s'; known are %s", what, n.Name, n.Path(), got, v.names())
	case v.enum[i].treat == refuse && !c.stored:
		why := because(reason)
		if reason == "" {
			why = "; supported: " + v.names()
		}
		return n.Errorf(virterr.ConfigUnsupported, "%s <%s> (%s): '%s' is not supported%s", what, n.Name, n.Path(), got, why)
	}
	return nil
}

// parseMAC reads a MAC address as libvirt does: six groups of one or two hexadecimal digits between colons.
func parseMAC(s string) (net.HardwareAddr, error) {
	parts := strings.Split(s, ":")
	mac := make(net.HardwareAddr, 0, 6)
	if len(parts) != 6 {
		return nil, strconv.ErrSyntax
	}
	for _, p := range parts {
		if len(p) > 2 {
			return nil, strconv.ErrSyntax
		}
		b, err := strconv.ParseUint(p, 16, 8)
		if err != nil {
			return nil, err
		}
		mac = append(mac, byte(b))
	}
	return mac, nil
}

// sort puts the elements and attributes below n, which w describes, into libvirt's order. What the vocabulary does not
// know goes last, in the order in which it stands; a comment stays before the element it was written before.
func (w *word) sort(n *xmltree.Node) {
	if len(n.Attrs) > 1 {
		slices.SortStableFunc(n.Attrs, func(a, b xmltree.Attr) int { return w.attrRank(a) - w.attrRank(b) })
	}
	if w.treat == keep || w.name == "metadata" || w.absent(n) || hasText(n) {
		return
	}
	if !w.sorted(n) {
		w.sortChildren(n)
	}
	for _, c := range n.Children {
		if c.Kind != xmltree.Element || c.Name.Prefix != "" {
			continue
		}
		if known := w.child(c.Name.Local); known != nil {
			known.sort(c)
		}
	}
}

// sorted reports whether the elements in n are in order.
func (w *word) sorted(n *xmltree.Node) bool {
	last := 0
	for _, c := range n.Children {
		if c.Kind != xmltree.Element {
			continue
		}
		rank := w.rank(c)
		if rank < last {
			return false
		}
		last = rank
	}
	return true
}

func (w *word) sortChildren(n *xmltree.Node) {
	type group struct {
		rank  int
		nodes []*xmltree.Node
	}
	groups := make([]group, 0, 32) // no memory, as long as it is enough; so is sorted
	from := 0                      // the comments before the element
	for i, c := range n.Children {
		if c.Kind == xmltree.Element {
			groups = append(groups, group{w.rank(c), n.Children[from : i+1]})
			from = i + 1
		}
	}
	comments := n.Children[from:]
	slices.SortStableFunc(groups, func(a, b group) int { return a.rank - b.rank })
	sorted := make([]*xmltree.Node, 0, 32)
	for _, g := range groups {
		sorted = append(sorted, g.nodes...)
	}
	copy(n.Children, append(sorted, comments...))
}

func hasText(n *xmltree.Node) bool {
	return slices.ContainsFunc(n.Children, func(c *xmltree.Node) bool { return c.Kind == xmltree.Text })
}

func (w *word) rank(n *xmltree.Node) int {
	if n.Name.Prefix == "" {
		if i := slices.IndexFunc(w.children, func(c *word) bool { return c.name == n.Name.Local }); i >= 0 {
			return i
		}
	}
	return len(w.children)
}

func (w *word) attrRank(a xmltree.Attr) int {
	if a.Name.Prefix != "" {
		return len(w.attrs)
	}
	_, i := w.attr(a.Name.Local)
	return i
}
