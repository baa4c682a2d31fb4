package kvm

import (
	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/hypervisor"
	"virtd/virterr"
)

// PlanDevice is Plan for one device of a domain that runs: the device of that alias, which def has with its address.
func PlanDevice(def *domain.Definition, alias string, facts HostFacts) (hypervisor.Attachment, []Resource, error) {
	p := &planner{def: def, view: def.View(), facts: facts}
	var a hypervisor.Attachment
	for _, kind := range []struct {
		element string
		plan    func(*xmltree.Node) error
	}{{"disk", p.disk}, {"interface", p.nic}, {"rng", p.rng}, {"hostdev", p.hostdev}} {
		for _, n := range def.Tree().Root.Child("devices").All(kind.element) {
			if n.Child("alias").Attr("name") != alias {
				continue
			}
			if err := kind.plan(n); err != nil {
				return a, nil, err
			}
			switch {
			case len(p.cfg.Disks) > 0:
				a.Disk = &p.cfg.Disks[0]
			case len(p.cfg.VhostUserDisks) > 0:
				a.VhostUserDisk = &p.cfg.VhostUserDisks[0]
			case len(p.cfg.NICs) > 0:
				a.NIC = &p.cfg.NICs[0]
			case len(p.cfg.Hostdevs) > 0:
				a.Hostdev, a.VFIO, a.IOMMUFD = &p.cfg.Hostdevs[0], p.cfg.VFIO, p.cfg.IOMMUFD
			default:
				a.RNG = &p.cfg.RNGs[0]
			}
			return a, p.res, nil
		}
	}
	return a, nil, virterr.New(virterr.InternalError, "domain '%s' has no device '%s' that can be attached", def.Name(), alias)
}
