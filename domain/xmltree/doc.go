// Package xmltree keeps an XML document the way its author wrote it: elements, attributes, text, comments and namespace
// prefixes in order, each with its line and column, and prints it in libvirt's style.
//
// It is the stored truth under every definition that virtd keeps (design decision 5): typed views are read from a tree,
// edits are made on the tree, so nothing a user wrote is lost because a Go struct has no field for it.
//
// Input is hostile: size, depth, element and attribute counts are limited, document type declarations are refused (so
// there are no entities to expand), and every error is a virterr.XMLError that says line and column.
//
// Left out: validation (package domain), XPath, encodings other than UTF-8. CDATA sections become plain text.
//
// Start reading at Parse, then Node.
package xmltree
