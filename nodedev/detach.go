package nodedev

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"

	"virtd/virterr"
)

// DetachOptions say how a function is taken from its driver.
type DetachOptions struct {
	Driver string // that it gets: "" and "vfio" are vfio-pci
	Group  bool   // all of its IOMMU group
	Force  bool   // although the host uses it
	Strict bool   // refuse one function of a group that could not be given to a guest afterwards
}

var driverName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Detach takes a function from its driver and gives it to vfio-pci. One that has it already stays as it is.
func (h *Hostdevs) Detach(ctx context.Context, a Address, o DetachOptions) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	driver, err := h.stub(ctx, o.Driver)
	if err != nil {
		return err
	}
	dev, err := h.assignable(a)
	if err != nil {
		return err
	}
	list := []Address{a}
	if o.Group {
		list = h.endpoints(dev)
	} else if o.Strict {
		if err := h.viable(a, list); err != nil {
			return err
		}
	}
	for _, member := range list {
		if err := h.idle(member, o.Force); err != nil {
			return err
		}
	}
	return h.takeAll(ctx, list, driver, "")
}

// idle refuses a function that a domain has, or the host cannot do without. The caller holds mu.
func (h *Hostdevs) idle(a Address, force bool) error {
	if err := h.free(a); err != nil {
		return err
	}
	dev, err := h.pciPath(a)
	if err != nil || force || isVFIO(h.link(dev, "driver")) {
		return err
	}
	return h.guard(a, dev)
}

// takeAll takes functions from their drivers, all or none. The caller holds mu.
func (h *Hostdevs) takeAll(ctx context.Context, list []Address, driver, domain string) error {
	for i, a := range list {
		err := h.take(ctx, a, driver, domain)
		if err == nil {
			continue
		}
		for _, done := range list[:i] {
			if berr := h.giveBack(ctx, done); berr != nil {
				err = errors.Join(err, berr)
			}
		}
		return err
	}
	return nil
}

// take takes one function. The caller holds mu.
func (h *Hostdevs) take(ctx context.Context, a Address, driver, domain string) error {
	dev, err := h.pciPath(a)
	if err != nil {
		return err
	}
	old := h.link(dev, "driver")
	_, known := h.detached[a]
	if old == driver {
		return nil
	}
	if !known {
		if err := h.put(a, detached{Identity: h.identity(dev), Driver: old, Boot: h.boot, Domain: domain}); err != nil {
			return virterr.NewFrom(virterr.FromNodeDev, virterr.SystemError, "%w", err)
		}
	}
	if err := h.bind(ctx, dev, driver); err != nil {
		err = fmt.Errorf("Failed to bind PCI device '%s' to driver '%s': %w", a, driver, err)
		if berr := h.giveBack(ctx, a); berr != nil {
			err = fmt.Errorf("%w; %v", err, berr)
		}
		return virterr.NewFrom(virterr.FromNodeDev, virterr.OperationFailed, "%w", err)
	}
	h.log.Info("device detached from its driver", "device", a.String(), "driver", old, "to", driver, "domain", domain)
	return nil
}

// Reattach gives a function back to the driver that it had, or where nobody remembers, to the one that wants it.
func (h *Hostdevs) Reattach(ctx context.Context, a Address) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.pciPath(a); err != nil {
		return err
	}
	if err := h.free(a); err != nil {
		return err
	}
	return h.giveBack(ctx, a)
}

// giveBack is Reattach of a function that no domain has. The caller holds mu.
func (h *Hostdevs) giveBack(ctx context.Context, a Address) error {
	dev, err := h.pciPath(a)
	if err != nil { // pulled out, or a virtual function that is gone
		return h.remove(a)
	}
	record, known := h.detached[a]
	now := h.link(dev, "driver")
	if now != "" && !isVFIO(now) {
		return h.remove(a) // it has a driver of the host
	}
	if record.Function != nil {
		if err := h.restoreFunction(dev, *record.Function); err != nil {
			h.log.Warn("cannot restore the settings of a virtual function", "device", a.String(), "error", err)
		}
	}
	err = h.bind(ctx, dev, "")
	switch {
	case err != nil:
	case !known:
		err = h.probe(ctx, dev, "")
	case record.Driver != "" && !isVFIO(record.Driver):
		err = h.bind(ctx, dev, record.Driver)
	}
	if err != nil {
		return virterr.NewFrom(virterr.FromNodeDev, virterr.OperationFailed, "Failed to give PCI device '%s' back to driver '%s': %w; "+
			"load the module and try again, or bind it by hand", a, record.Driver, err)
	}
	if err := h.remove(a); err != nil {
		return virterr.NewFrom(virterr.FromNodeDev, virterr.SystemError, "cannot forget that PCI device %s was detached: %w", a, err)
	}
	h.log.Info("device given back to the host", "device", a.String(), "driver", h.link(dev, "driver"))
	return nil
}

// stub returns the driver to bind to, with its module loaded.
func (h *Hostdevs) stub(ctx context.Context, name string) (string, error) {
	if name == "" || name == "vfio" {
		name = vfioPCI
	}
	if !driverName.MatchString(name) || !isVFIO(name) {
		return "", virterr.NewFrom(virterr.FromNodeDev, virterr.InvalidArg, "unknown driver name '%s'", name)
	}
	if h.exists("bus/pci/drivers", name) {
		return name, nil
	}
	if err := h.modprobe(ctx, name); err != nil || !h.exists("bus/pci/drivers", name) {
		if err == nil {
			err = errors.New("the module is loaded and the driver does not show")
		}
		return "", virterr.NewFrom(virterr.FromNodeDev, virterr.ConfigUnsupported, "VFIO device assignment is currently not supported on this system: "+
			"the driver %s cannot be loaded: %w; install the package with the kernel's extra modules, or build the kernel with CONFIG_VFIO_PCI", name, err)
	}
	return name, nil
}

// assignable refuses what cannot be given to a guest whatever its driver: no IOMMU, or a bridge.
func (h *Hostdevs) assignable(a Address) (string, error) {
	dev, err := h.pciPath(a)
	if err != nil {
		return "", err
	}
	if h.Group(a) == "" {
		return "", virterr.NewFrom(virterr.FromNodeDev, virterr.ConfigUnsupported, "VFIO device assignment is currently not supported on this system: "+
			"PCI device %s is in no IOMMU group; enable VT-d or AMD-Vi in the firmware's setup and boot with intel_iommu=on or amd_iommu=on", a)
	}
	config, err := h.bytes(configSize, dev, "config")
	if err == nil && headerType(config) != headerEndpoint {
		return "", virterr.NewFrom(virterr.FromNodeDev, virterr.OperationInvalid, "PCI device %s is not assignable: it is a bridge", filepath.Base(dev))
	}
	return dev, nil
}
