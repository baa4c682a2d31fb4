package domain

import (
	"cmp"
	"slices"

	"virtd/virterr"
)

// CheckVCPUHotplug tells why no vCPU of the running domain can come or go.
func (d *Definition) CheckVCPUHotplug() error {
	switch {
	case !machineType(d.Machine()).PlugsVCPUs:
		return virterr.New(virterr.OperationUnsupported,
			"the vcpus of a domain of machine type '%s' cannot change while it runs; change its configuration (--config), or its machine type to '%s'",
			d.Machine(), map[bool]string{true: MachineQ35, false: MachinePC}[d.IsQ35()])
	case d.doc.Root.Child("features", "acpi") == nil:
		return virterr.New(virterr.OperationUnsupported,
			"the vcpus of domain '%s' cannot change while it runs: it has no ACPI, by which its guest would learn of it", d.name)
	}
	return nil
}

// SelectVCPUs returns which vCPUs of a running domain come, or which go, so that it has n.
func (d *Definition) SelectVCPUs(n int) (ids []int, online bool, err error) {
	if n > d.VCPUs() {
		return nil, false, virterr.New(virterr.InvalidArg,
			"requested vcpus is greater than max allowable vcpus for the live domain: %d > %d", n, d.VCPUs())
	}
	missing := n - d.CurrentVCPUs()
	online = missing > 0
	for i := range d.vcpus {
		id := i
		if !online {
			id = len(d.vcpus) - 1 - i // the last ones go first
		}
		if v := d.vcpus[id]; missing != 0 && v.Online != online && v.Hotpluggable {
			ids = append(ids, id)
			missing += map[bool]int{true: -1, false: 1}[online]
		}
	}
	if missing != 0 {
		return nil, false, virterr.New(virterr.ConfigUnsupported,
			"failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count")
	}
	return ids, online, nil
}

// CheckVCPUState tells why the vCPUs of a running domain cannot come or go. One can at a time.
func (d *Definition) CheckVCPUState(ids []int, online bool) error {
	for _, id := range ids {
		switch {
		case id < 0 || id >= d.VCPUs():
			return virterr.New(virterr.InvalidArg, "vcpu %d is not present in live config", id)
		case d.vcpus[id].Online == online:
			return virterr.New(virterr.InvalidArg, "vcpu '%d' is already in requested state", id)
		case !online && !d.vcpus[id].Hotpluggable:
			return virterr.New(virterr.InvalidArg, "vcpu '%d' can't be hotunplugged", id)
		}
	}
	if len(ids) != 1 {
		return virterr.New(virterr.OperationUnsupported, "only one hotpluggable entity can be selected")
	}
	return nil
}

// PlugVCPU returns the live definition with one more vCPU, UnplugVCPU with one less.
func (d *Definition) PlugVCPU(id int) (*Definition, error) { return d.setLiveVCPU(id, true) }

// UnplugVCPU is documented at PlugVCPU.
func (d *Definition) UnplugVCPU(id int) (*Definition, error) { return d.setLiveVCPU(id, false) }

func (d *Definition) setLiveVCPU(id int, online bool) (*Definition, error) {
	if id <= 0 || id >= d.VCPUs() {
		return nil, virterr.New(virterr.InvalidArg, "vcpu %d is not present in live config", id)
	}
	if d.vcpus[id].Online == online {
		return d, nil
	}
	return d.editVCPUs(true, func(list []VCPU) []VCPU {
		list[id] = VCPU{Online: online, Hotpluggable: true}
		if online {
			list[id].Order = len(list) + 1
		}
		reorder(list)
		return list
	})
}

// reorder numbers the vCPUs that are there: those without a number first.
func reorder(list []VCPU) {
	var there []*VCPU
	for id := range list {
		if list[id].Online {
			there = append(there, &list[id])
		}
	}
	slices.SortStableFunc(there, func(a, b *VCPU) int { return cmp.Compare(a.Order, b.Order) })
	for n, v := range there {
		v.Order = n + 1
	}
}

// WithVCPUs returns the live definition in which the vCPUs of those numbers, and no others, are there. Numbers that the
// domain cannot have are left out.
func (d *Definition) WithVCPUs(ids []int) *Definition {
	for id := 1; id < d.VCPUs(); id++ {
		if now, err := d.setLiveVCPU(id, slices.Contains(ids, id)); err == nil {
			d = now
		}
	}
	return d
}
