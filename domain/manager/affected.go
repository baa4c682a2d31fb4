package manager

import (
	"virtd/domain"
	"virtd/virterr"
)

// Affected returns the definition that a query with these flags is about, and whether it is the running one. Flags other than
// AffectLive and AffectConfig are not looked at.
func (d *Domain) Affected(flags Affect) (def *domain.Definition, live bool, err error) {
	if flags&affectBoth == affectBoth {
		return nil, false, virterr.New(virterr.InvalidArg, "a query is about the running domain or about its configuration, not about both")
	}
	if live, _, err = d.targets(flags); err != nil {
		return nil, false, err
	}
	if live {
		_, def, err = d.engine()
	} else {
		def, err = d.definition()
	}
	return def, live, err
}
