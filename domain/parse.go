package domain

import (
	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Parse reads one domain document. The Definition has every default and address filled in; printing it and parsing that
// gives an equal one. Errors are *virterr.Error: XMLError for what is not domain XML, ConfigUnsupported for what virtd
// does not have, XMLInvalidSchema with Options.Validate, each with line and column where there is one.
func Parse(text string, opts Options) (*Definition, error) {
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	return build(doc, opts)
}

// build makes a Definition of a tree, which it takes over and changes.
func build(doc *xmltree.Document, opts Options) (*Definition, error) {
	if opts.Emulator == "" {
		opts.Emulator = DefaultEmulator
	}
	root := doc.Root
	if !root.Is("domain") || defaultNamespace(root) != "" {
		return nil, root.Errorf(virterr.XMLError, "unexpected root element <%s>, expecting <domain>", root.Name)
	}
	tidy(root)
	if err := vocabulary().check(root, opts); err != nil {
		return nil, err
	}
	if !opts.Live {
		stripLive(root)
	}
	d := &Definition{doc: doc, opts: opts}
	for _, step := range []func(*Definition) error{
		(*Definition).identity,
		(*Definition).platform,
		(*Definition).devices,
	} {
		if err := step(d); err != nil {
			return nil, err
		}
	}
	vocabulary().sort(root)
	if err := d.typed(); err != nil {
		return nil, err
	}
	return d, nil
}

func defaultNamespace(n *xmltree.Node) string {
	uri, _ := n.Namespace("")
	return uri
}

// tidy removes white space that stands alone in an element, except where it is the user's content.
func tidy(root *xmltree.Node) {
	root.TrimSpace(func(n *xmltree.Node) bool {
		return n.Parent() == root && (n.Is("metadata") || n.Is("title") || n.Is("description"))
	})
}

// edit returns a Definition with f's changes to a copy of the tree.
func (d *Definition) edit(f func(root *xmltree.Node) error) (*Definition, error) {
	doc := d.doc.Clone()
	if err := f(doc.Root); err != nil {
		return nil, err
	}
	opts := d.opts
	opts.Validate, opts.Stored = false, true
	return build(doc, opts)
}
