package nodedev

import (
	"fmt"
	"slices"
	"strings"

	"virtd/virterr"
)

// members are the functions of a function's IOMMU group.
func (h *Hostdevs) members(dev string) []Address {
	var out []Address
	for _, name := range h.list(dev + "/iommu_group/devices") {
		if a, err := ParseAddress(name); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// endpoints are the members that can be given to a guest: not the bridges.
func (h *Hostdevs) endpoints(dev string) []Address {
	return slices.DeleteFunc(h.members(dev), func(a Address) bool {
		config, err := h.bytes(configSize, "bus/pci/devices", a.String(), "config")
		return err == nil && headerType(config) != headerEndpoint
	})
}

// harmless reports whether a driver may have a member of a group that a guest has another one of: the kernel lets root ports
// and stubs be, which do no DMA of their own.
func harmless(driver string) bool {
	return driver == "" || isVFIO(driver) || driver == "pcieport" || driver == "pci-stub"
}

// viable refuses a function that the IOMMU cannot keep apart from one that the host uses. with are those that will be taken
// along. The caller holds mu.
func (h *Hostdevs) viable(a Address, with []Address) error {
	dev := "bus/pci/devices/" + a.String()
	var others []string
	for _, m := range h.members(dev) {
		if driver := h.Driver(m); m != a && !slices.Contains(with, m) && !harmless(driver) {
			others = append(others, fmt.Sprintf("%s (driver %s)", m, driver))
		}
	}
	if len(others) == 0 {
		return nil
	}
	return virterr.NewFrom(virterr.FromNodeDev, virterr.OperationInvalid, "PCI device %s is not assignable: IOMMU group %s also has %s; "+
		"detach these too (vctl nodedev detach --group %s), or move the card to a slot with a group of its own",
		a, h.link(dev, "iommu_group"), strings.Join(others, ", "), a.Name())
}
