package cpuid

import "slices"

// Host is the model that describes a host best, for libvirt's capabilities and for the expansion of host-model.
type Host struct {
	Model    string
	Vendor   string
	Required []string // features that the host has beyond the model
	Disabled []string // features of the model that the host lacks
}

// notInHostModel are features that a domain does not get from its host's model: they follow from the topology, or keep a
// guest from moving.
var notInHostModel = map[string]bool{"ht": true, "cmp_legacy": true, "invtsc": true, "osxsave": true, "ospke": true,
	"intel-pt": true, "sgx": true, "sgxlc": true, "topoext": true, "monitor": true, "extapic": true}

// HostModel returns the model of the host's vendor that leaves the least to add and to take away. What the host lacks
// counts double: a model that has more than the host misnames it.
func HostModel(supported []Entry) Host {
	host := hostLeaves(supported)
	vendor := vendorOf(host)
	have := map[string]bool{}
	for _, name := range Names(host) {
		have[name] = !notInHostModel[name]
	}
	best, cost := Host{}, 1<<30
	family, model := familyModel(host.value(1, 0, EAX))
	for _, m := range Models() {
		if m.Vendor != "" && m.Vendor != vendor {
			continue
		}
		h := compare(m, have)
		c := len(h.Required) + 2*len(h.Disabled)
		if m.Vendor == vendor && m.Family == family && m.Model == model {
			c -= 4 // the processor itself, when its features come close
		}
		if c <= cost {
			best, cost = h, c
		}
	}
	best.Vendor = vendor
	return best
}

// compare lists how the host differs from a model.
func compare(m *Model, have map[string]bool) Host {
	h := Host{Model: m.Name}
	for name, ok := range have {
		if ok && !slices.Contains(m.features, name) {
			h.Required = append(h.Required, name)
		}
	}
	for _, name := range m.features {
		if !have[name] {
			h.Disabled = append(h.Disabled, name)
		}
	}
	slices.Sort(h.Required)
	slices.Sort(h.Disabled)
	return h
}

// familyModel decodes leaf 1 EAX.
func familyModel(signature uint32) (family, model int) {
	family = int(signature >> 8 & 0xf)
	model = int(signature >> 4 & 0xf)
	if family == 15 {
		family += int(signature >> 20 & 0xff)
	}
	if family >= 6 {
		model |= int(signature >> 16 & 0xf << 4)
	}
	return family, model
}

// Policies returns the features of a host-model domain as policies.
func (h Host) Policies() map[string]Policy {
	out := map[string]Policy{}
	for _, name := range h.Required {
		out[name] = Require
	}
	for _, name := range h.Disabled {
		out[name] = Disable
	}
	return out
}
