package nodedev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Claim is a function that a domain wants.
type Claim struct {
	Address
	Managed  bool            // taken from its driver now and given back afterwards
	Driver   string          // as in DetachOptions
	Function *FunctionConfig // what the physical function shall do for it, a virtual one; nil: as it is
	IOMMUFD  bool            `json:",omitempty"` // by OpenIOMMUFD and OpenDevice, not by OpenContainer and OpenGroup
}

// Claim gives functions to a domain, all or none. Managed ones are taken from their drivers; what the host needs is refused.
func (h *Hostdevs) Claim(ctx context.Context, user User, want []Claim) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var with []Address
	for _, c := range want {
		with = append(with, c.Address)
	}
	for i, c := range want {
		if slices.Contains(with[:i], c.Address) {
			return virterr.New(virterr.ConfigUnsupported, "PCI device %s is in domain %s twice", c.Address, user.Name)
		}
		if c.IOMMUFD {
			if err := h.needIOMMUFD(ctx, c.Address); err != nil {
				return err
			}
		}
		if err := h.claimable(c, with); err != nil {
			return err
		}
	}
	for _, c := range want {
		if err := h.claim(ctx, user, c); err != nil {
			if rerr := h.release(ctx, user, with); rerr != nil {
				h.log.Error("cannot give the host's devices back after a failure", "domain", user.Name, "error", rerr)
			}
			return err
		}
	}
	return nil
}

// claimable says whether a claim could be granted, before anything is changed. The caller holds mu.
func (h *Hostdevs) claimable(c Claim, with []Address) error {
	dev, err := h.assignable(c.Address)
	if err != nil {
		return err
	}
	if err := h.free(c.Address); err != nil {
		return err
	}
	if c.Function != nil && h.link(dev, "physfn") == "" {
		return virterr.New(virterr.ConfigUnsupported, "PCI device %s is not a virtual function: interfaces of type 'hostdev' need one (vctl sriov create)", c.Address)
	}
	if err := h.viable(c.Address, with); err != nil {
		return err
	}
	switch driver := h.link(dev, "driver"); {
	case isVFIO(driver):
		return nil
	case !c.Managed:
		return virterr.New(virterr.OperationInvalid, "Unmanaged PCI device %s must be manually detached from the host", c.Address)
	}
	return h.guard(c.Address, dev)
}

// Claimable says why nobody could claim a virtual function now, nil if a domain without others of its group can.
func (h *Hostdevs) Claimable(a Address, managed bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.claimable(Claim{Address: a, Managed: managed, Function: &FunctionConfig{}}, []Address{a})
}

// claim grants one. The caller holds mu.
func (h *Hostdevs) claim(ctx context.Context, user User, c Claim) error {
	h.users[c.Address] = user
	if c.Managed {
		driver, err := h.stub(ctx, c.Driver)
		if err != nil {
			return err
		}
		if !isVFIO(h.Driver(c.Address)) {
			if err := h.take(ctx, c.Address, driver, user.UUID); err != nil {
				return err
			}
		}
	}
	if c.Function == nil {
		return nil
	}
	dev, err := h.pciPath(c.Address)
	if err != nil {
		return err
	}
	old, err := h.function(dev)
	if err != nil {
		return err
	}
	d := h.detached[c.Address]
	if d.Identity == "" { // bound to vfio-pci by somebody else
		d = detached{Identity: h.identity(dev), Driver: vfioPCI, Boot: h.boot, Domain: user.UUID}
	}
	if d.Function == nil {
		d.Function = &old
	}
	if err := h.put(c.Address, d); err != nil {
		return virterr.New(virterr.SystemError, "%w", err)
	}
	return h.setFunction(dev, *c.Function)
}

// Adopt notes what a domain has that an earlier process started.
func (h *Hostdevs) Adopt(user User, list []Address) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range list {
		h.users[a] = user
	}
}

// Release takes back what a domain has, or the functions in list alone. Its engine has ended, or has given them up.
func (h *Hostdevs) Release(ctx context.Context, user User, list ...Address) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.release(ctx, user, list)
}

// release is Release; no list means all. The caller holds mu.
func (h *Hostdevs) release(ctx context.Context, user User, list []Address) error {
	var errs []error
	meant := func(a Address) bool { return len(list) == 0 || slices.Contains(list, a) }
	for a, u := range h.users {
		if u.UUID == user.UUID && meant(a) {
			delete(h.users, a)
		}
	}
	for _, a := range h.sortedRecords() {
		if !meant(a) {
			continue
		}
		if d := h.detached[a]; d.Domain == user.UUID {
			errs = append(errs, h.giveBack(ctx, a))
		} else if dev, err := h.pciPath(a); err == nil && d.Function != nil && !h.inUse(a) { // detached by hand
			errs = append(errs, h.restoreFunction(dev, *d.Function))
			d.Function = nil
			errs = append(errs, h.put(a, d))
		}
	}
	return errors.Join(errs...)
}

func (h *Hostdevs) inUse(a Address) bool {
	_, used := h.users[a]
	return used
}

// sortedRecords are the functions with a record, in the order of their addresses.
func (h *Hostdevs) sortedRecords() []Address {
	out := make([]Address, 0, len(h.detached))
	for a := range h.detached {
		out = append(out, a)
	}
	slices.SortFunc(out, Address.compare)
	return out
}

// Tidy takes back what domains had that are no longer running: virtd was killed before it could.
func (h *Hostdevs) Tidy(ctx context.Context, running func(uuid string) bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, a := range h.sortedRecords() {
		if d := h.detached[a]; d.Domain != "" && !running(d.Domain) && !h.inUse(a) {
			errs = append(errs, h.giveBack(ctx, a))
		}
	}
	return errors.Join(errs...)
}

// Group returns the number of the IOMMU group of a function, "" without an IOMMU.
func (h *Hostdevs) Group(a Address) string {
	group := h.link("bus/pci/devices/"+a.String(), "iommu_group")
	if _, err := strconv.ParseUint(group, 10, 32); err != nil {
		return ""
	}
	return group
}

// OpenGroup opens the IOMMU group of a function, by which its device is had. Functions of one group share it: number tells.
func (h *Hostdevs) OpenGroup(a Address) (number string, group *os.File, err error) {
	number = h.Group(a)
	path := filepath.Join(h.dev, "vfio", number)
	if h.exists("bus/pci/devices/"+a.String(), "iommu_group/name") && h.attr("bus/pci/devices/"+a.String(), "iommu_group/name") == "vfio-noiommu" {
		return number, nil, virterr.New(virterr.ConfigUnsupported, "PCI device %s has no IOMMU behind it", a)
	}
	group, err = os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return number, nil, virterr.New(virterr.OperationInvalid, "PCI device %s is in use: another program has its IOMMU group open (%s)", a, path)
	case err != nil:
		return number, nil, virterr.New(virterr.SystemError, "cannot open the IOMMU group of PCI device %s: %w", a, err)
	}
	return number, group, nil
}

// OpenContainer opens the address space that the groups of one domain share.
func (h *Hostdevs) OpenContainer() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(h.dev, "vfio/vfio"), os.O_RDWR, 0)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot open VFIO: %w; load the module vfio_iommu_type1, or use <driver iommufd='yes'/> if the kernel has only that", err)
	}
	return f, nil
}
