package domain

import "virtd/domain/xmltree"

func assignAliases(root *xmltree.Node) {}
