package nodedev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// iommufd's address spaces, and the module that makes the file.
const (
	iommufdFile   = "iommu" // in /dev
	iommufdModule = "iommufd"
)

// needIOMMUFD refuses a function that shall go through iommufd on a host without it, before anything is changed. What the
// kernel has of it as a module is loaded.
func (h *Hostdevs) needIOMMUFD(ctx context.Context, a Address) error {
	path := filepath.Join(h.dev, iommufdFile)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	err := h.modprobe(ctx, iommufdModule)
	if err == nil {
		if _, err = os.Stat(path); err == nil {
			return nil
		}
	}
	return virterr.New(virterr.ConfigUnsupported, "PCI device %s cannot use iommufd: this host does not have it (%w); "+
		"it needs Linux 6.6 or newer, built with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV; <driver iommufd='no'/> does without", a, err)
}

// OpenIOMMUFD opens iommufd, in which the functions of one domain share an address space.
func (h *Hostdevs) OpenIOMMUFD() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(h.dev, iommufdFile), os.O_RDWR, 0)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot open iommufd: %w; load the module iommufd, or use <driver iommufd='no'/>", err)
	}
	return f, nil
}

// OpenDevice opens a function that vfio-pci has, for an iommufd.
func (h *Hostdevs) OpenDevice(a Address) (*os.File, error) {
	name := ""
	for _, entry := range h.list("bus/pci/devices/" + a.String() + "/vfio-dev") {
		if strings.HasPrefix(entry, "vfio") {
			name = entry
		}
	}
	f, err := os.OpenFile(filepath.Join(h.dev, "vfio/devices", name), os.O_RDWR, 0)
	switch {
	case name == "" || errors.Is(err, os.ErrNotExist): // sysfs names it also where the kernel has no files
		return nil, virterr.New(virterr.ConfigUnsupported, "PCI device %s cannot use iommufd: vfio-pci has no file for it; "+
			"the kernel needs CONFIG_VFIO_DEVICE_CDEV (Linux 6.6 or newer); <driver iommufd='no'/> does without", a)
	case errors.Is(err, unix.EBUSY):
		return nil, virterr.New(virterr.OperationInvalid, "PCI device %s is in use: another program has it open (%s)", a, name)
	case err != nil:
		return nil, virterr.New(virterr.SystemError, "cannot open PCI device %s: %w", a, err)
	}
	return f, nil
}
