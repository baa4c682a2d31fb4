package network

import (
	"virtd/domain/xmltree"
	"virtd/virterr"
)

// failure is an error of this package.
func failure(code virterr.Code, format string, args ...any) error {
	return virterr.NewFrom(virterr.FromNetwork, code, format, args...)
}

// malformed is an error about a document that cannot be understood.
func malformed(n *xmltree.Node, format string, args ...any) error {
	return fromNetwork(n.Errorf(virterr.XMLError, format, args...))
}

// unsupported is an error about a document that asks for what is not there.
func unsupported(n *xmltree.Node, format string, args ...any) error {
	return fromNetwork(n.Errorf(virterr.ConfigUnsupported, format, args...))
}

func fromNetwork(err error) error {
	e := *virterr.As(err)
	e.From = virterr.FromNetwork
	return &e
}
