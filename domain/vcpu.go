package domain

import (
	"slices"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// MaxVCPUs is how many vCPUs one domain can have.
const MaxVCPUs = 64

// VCPU is one of the vCPUs that a domain can have.
type VCPU struct {
	Online bool
	// Hotpluggable ones can be taken from the running domain. One that is not there always is.
	Hotpluggable bool
	Order        int // in which they were enabled, from 1; 0 is not said
}

// VCPUs returns how many vCPUs the domain can have.
func (d *Definition) VCPUs() int { return len(d.vcpus) }

// CurrentVCPUs returns how many vCPUs are present, at most VCPUs.
func (d *Definition) CurrentVCPUs() int { return countOnline(d.vcpus) }

// OnlineVCPUs returns the numbers of the vCPUs that are present, ascending.
func (d *Definition) OnlineVCPUs() (list []int) {
	for id, v := range d.vcpus {
		if v.Online {
			list = append(list, id)
		}
	}
	return list
}

func countOnline(list []VCPU) (n int) {
	for _, v := range list {
		if v.Online {
			n++
		}
	}
	return n
}

// firstOnline returns n vCPUs of which the first ones are there, as libvirt takes <vcpu current='online'>n</vcpu>.
func firstOnline(online, n int) []VCPU {
	list := make([]VCPU, n)
	for id := range list {
		list[id] = VCPU{Online: id < online, Hotpluggable: id >= online}
	}
	return list
}

func (d *Definition) readVCPU(root *xmltree.Node) error {
	n := root.Child("vcpu")
	if n == nil {
		n = root.Append(xmltree.NewText("vcpu", "1"))
	}
	count, err := strconv.ParseUint(n.Trimmed(), 10, 32)
	if err != nil || count == 0 {
		return n.Errorf(virterr.XMLError, "vCPU count must be an integer from 1 to %d, not '%s'", MaxVCPUs, n.Trimmed())
	}
	if count > MaxVCPUs {
		return n.Errorf(virterr.ConfigUnsupported, "%d vCPUs are more than the machine's limit of %d", count, MaxVCPUs)
	}
	n.SetContent(strconv.FormatUint(count, 10))
	if n.Attr("placement") == "" {
		n.SetAttr("placement", "static")
	}
	if set := n.Attr("cpuset"); set != "" {
		if _, err := ParseCPUSet(set); err != nil {
			return n.Errorf(virterr.XMLError, "<vcpu cpuset='%s'>: %s", set, virterr.As(err).Message)
		}
	}
	online := count
	if current, ok := n.LookupAttr("current"); ok {
		if online, err = strconv.ParseUint(strings.TrimSpace(current), 10, 32); err != nil || online == 0 {
			return n.Errorf(virterr.XMLError, "<vcpu current='%s'> must be an integer above 0", current)
		}
		if online > count {
			return n.Errorf(virterr.XMLError, "maxvcpus must not be less than current vcpus (%d < %d)", count, online)
		}
	}
	d.vcpus = firstOnline(int(online), int(count))
	if list := root.Child("vcpus"); len(list.All("vcpu")) > 0 {
		if err := d.readVCPUs(list); err != nil {
			return err
		}
	}
	writeVCPUs(root, d.vcpus, false)
	return nil
}

// readVCPUs reads a list of single vCPUs, which says more than <vcpu current=>: what it does not name is not there.
func (d *Definition) readVCPUs(list *xmltree.Node) error {
	for id := range d.vcpus {
		d.vcpus[id] = VCPU{Hotpluggable: true}
	}
	seen := map[int]bool{}
	orders := map[int]bool{0: false}
	for _, v := range list.All("vcpu") {
		id, err := strconv.Atoi(v.Attr("id"))
		if err != nil || id < 0 || id >= len(d.vcpus) {
			return v.Errorf(virterr.XMLError, "vcpu id '%s' is not one of the domain's %d", v.Attr("id"), len(d.vcpus))
		}
		if seen[id] {
			return v.Errorf(virterr.XMLError, "duplicate vcpu id '%d'", id)
		}
		seen[id] = true
		one := VCPU{Online: v.Attr("enabled") != "no"}
		one.Hotpluggable = v.Attr("hotpluggable") == "yes" || !one.Online
		if v.Attr("hotpluggable") == "no" && !one.Online {
			return v.Errorf(virterr.ConfigUnsupported, "vcpu '%d' is both offline and not hotpluggable", id)
		}
		if order, ok := v.LookupAttr("order"); ok {
			one.Order, err = strconv.Atoi(order)
			if err != nil || one.Order < 1 || one.Order > len(d.vcpus) || orders[one.Order] {
				return v.Errorf(virterr.XMLError, "vcpu order '%s' is not one of 1 to %d that is given once", order, len(d.vcpus))
			}
			orders[one.Order] = true
		}
		d.vcpus[id] = one
	}
	return d.checkVCPUs(list)
}

// checkVCPUs refuses what no machine starts with.
func (d *Definition) checkVCPUs(list *xmltree.Node) error {
	switch first := d.vcpus[0]; {
	case !first.Online:
		return list.Errorf(virterr.ConfigUnsupported, "vcpu 0 can't be offline")
	case first.Hotpluggable:
		return list.Errorf(virterr.ConfigUnsupported, "vcpu 0 can't be hotpluggable")
	case first.Order > 1:
		return list.Errorf(virterr.ConfigUnsupported, "vcpu 0 must be enabled first")
	}
	plugged := false
	for _, v := range d.vcpus {
		if v.Online && !v.Hotpluggable && plugged {
			return list.Errorf(virterr.ConfigUnsupported, "online non-hotpluggable vcpus need to be ordered from beginning")
		}
		plugged = plugged || v.Online && v.Hotpluggable
	}
	return nil
}

// writeVCPUs makes the document say which vCPUs are there. The list of single ones is there when it is needed: to say
// what <vcpu current=> cannot, when single says so, or because it was there.
func writeVCPUs(root *xmltree.Node, vcpus []VCPU, single bool) {
	online := countOnline(vcpus)
	v := root.Ensure("vcpu")
	v.SetContent(strconv.Itoa(len(vcpus)))
	if v.RemoveAttr("current"); online != len(vcpus) {
		v.SetAttr("current", strconv.Itoa(online))
	}
	if !single && len(root.Child("vcpus").All("vcpu")) == 0 {
		return
	}
	list := root.Ensure("vcpus")
	nodes := make([]*xmltree.Node, len(vcpus))
	for _, n := range list.All("vcpu") {
		if id, err := strconv.Atoi(n.Attr("id")); err == nil && id >= 0 && id < len(vcpus) {
			nodes[id] = n
		} else {
			n.Remove()
		}
	}
	yes := map[bool]string{true: "yes", false: "no"}
	for id, v := range vcpus {
		n := nodes[id]
		if n == nil {
			n = list.Append(xmltree.New("vcpu", "id", strconv.Itoa(id)))
		}
		n.SetAttr("enabled", yes[v.Online])
		n.SetAttr("hotpluggable", yes[v.Hotpluggable])
		if n.RemoveAttr("order"); v.Order != 0 {
			n.SetAttr("order", strconv.Itoa(v.Order))
		}
	}
}

// editVCPUs returns the definition with f's changes to its vCPUs. single is as in writeVCPUs.
func (d *Definition) editVCPUs(single bool, f func(list []VCPU) []VCPU) (*Definition, error) {
	list := f(slices.Clone(d.vcpus))
	return d.edit(func(root *xmltree.Node) error {
		writeVCPUs(root, list, single)
		return nil
	})
}

// SetVCPUs returns the configuration with n vCPUs present at boot: the first that are absent come, or the last that are
// present go. With hotpluggable those that come can be taken from the running domain.
func (d *Definition) SetVCPUs(n int, hotpluggable bool) (*Definition, error) {
	if n < 1 || n > d.VCPUs() {
		return nil, virterr.New(virterr.InvalidArg,
			"requested vcpus is greater than max allowable vcpus for the domain %q: %d > %d", d.name, n, d.VCPUs())
	}
	missing := n - d.CurrentVCPUs()
	single := hotpluggable && missing > 0
	list := slices.Clone(d.vcpus)
	for id := range list {
		list[id].Order = 0 // may no longer be true
		switch {
		case missing <= 0:
		case list[id].Online: // those that stay come before those that can go
			hotpluggable = hotpluggable || list[id].Hotpluggable
		default:
			list[id] = VCPU{Online: true, Hotpluggable: hotpluggable}
			missing--
		}
	}
	for id := len(list) - 1; missing < 0; id-- {
		if list[id].Online {
			list[id] = VCPU{Hotpluggable: true}
			missing++
		}
	}
	return d.editVCPUs(single, func([]VCPU) []VCPU { return list })
}

// SetMaxVCPUs returns the definition that can have n vCPUs. It fails when a <topology> says otherwise.
func (d *Definition) SetMaxVCPUs(n int) (*Definition, error) {
	if n < 1 || n > MaxVCPUs {
		return nil, virterr.New(virterr.InvalidArg, "domain %q can have 1 to %d vcpus, not %d", d.name, MaxVCPUs, n)
	}
	return d.editVCPUs(false, func(list []VCPU) []VCPU {
		for id := range list {
			list[id].Order = 0
		}
		for len(list) < n {
			list = append(list, VCPU{Hotpluggable: true})
		}
		return list[:n]
	})
}

// SetVCPUState returns the configuration in which the vCPUs of those numbers are there, or not.
func (d *Definition) SetVCPUState(ids []int, online bool) (*Definition, error) {
	for _, id := range ids {
		if id < 0 || id >= d.VCPUs() {
			return nil, virterr.New(virterr.InvalidArg, "vcpu %d is not present in persistent config", id)
		}
		if id == 0 {
			return nil, virterr.New(virterr.InvalidArg, "vCPU '0' can't be modified")
		}
	}
	first := slices.Min(ids)
	for id := first; id < d.VCPUs(); id++ {
		if v := d.vcpus[id]; v.Online && !v.Hotpluggable && !slices.Contains(ids, id) {
			return nil, virterr.New(virterr.InvalidArg, "vcpu '%d' can't be modified as it is followed by non-hotpluggable online vcpus", first)
		}
	}
	return d.editVCPUs(true, func(list []VCPU) []VCPU {
		for id := range list {
			list[id].Order = 0
		}
		for _, id := range ids {
			list[id] = VCPU{Online: online, Hotpluggable: true}
		}
		return list
	})
}
