package portconf

import (
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// ReadCoalesce reads n's <coalesce>: how many frames that a guest sends the host gathers at most before it looks at them. 0,
// also where there is none, gathers nothing.
func ReadCoalesce(n *xmltree.Node) (frames uint32, err error) {
	f := n.Child("coalesce", "rx", "frames")
	text, given := f.LookupAttr("max")
	if !given {
		return 0, nil
	}
	v, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, f.Errorf(virterr.XMLError, "cannot parse value '%s' for coalesce parameter", text)
	}
	return uint32(v), nil
}
