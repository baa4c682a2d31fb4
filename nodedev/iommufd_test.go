package nodedev

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/nodedev/nodedevtest"
)

// A function that shall go through iommufd is refused on a host without it while its driver still has it.
func TestClaimWithoutIOMMUFD(t *testing.T) {
	b := newHostdevs(t)
	b.cfg.Modprobe = func(context.Context, string) error { return unix.ENOENT }
	b.open()
	err := b.Claim(context.Background(), User{Name: "demo", UUID: "u"}, []Claim{{Address: e1000e, Managed: true, IOMMUFD: true}})
	b.refuses(err, "PCI device 0000:02:00.0 cannot use iommufd: this host does not have it", "CONFIG_IOMMUFD", "<driver iommufd='no'/>")
	b.has(e1000e, "e1000e")
}

// The module is loaded when it is needed, and the files of iommufd and of the function are those that the kernel names.
func TestOpenIOMMUFD(t *testing.T) {
	b := newHostdevs(t)
	loads := b.cfg.Modprobe
	b.cfg.Modprobe = func(ctx context.Context, module string) error {
		if module != "iommufd" {
			return loads(ctx, module)
		}
		put(t, filepath.Join(b.cfg.Dev, "iommu"), "")
		return nil
	}
	b.open()
	if _, err := b.OpenIOMMUFD(); err == nil {
		t.Error("iommufd opens before it is loaded")
	}
	b.ok(b.Claim(context.Background(), User{Name: "demo", UUID: "u"}, []Claim{{Address: e1000e, Managed: true, IOMMUFD: true}}))
	b.has(e1000e, "vfio-pci")
	if _, err := b.OpenDevice(e1000e); err == nil {
		t.Error("a function opens for which the kernel has no file")
	} else {
		b.refuses(err, "vfio-pci has no file for it", "CONFIG_VFIO_DEVICE_CDEV")
	}
	dev, err := os.Readlink(filepath.Join(b.cfg.Sys, "bus/pci/devices", e1000e.String()))
	b.ok(err)
	nodedevtest.Build(t, b.cfg.Sys, "@ "+dev[len("../../../"):]+"/vfio-dev/vfio7\ndev 509:7\n")
	if _, err := b.OpenDevice(e1000e); err == nil {
		t.Error("a function opens whose file is not there")
	} else {
		b.refuses(err, "CONFIG_VFIO_DEVICE_CDEV")
	}
	put(t, filepath.Join(b.cfg.Dev, "vfio/devices/vfio7"), "")
	for _, open := range []func() (*os.File, error){b.OpenIOMMUFD, func() (*os.File, error) { return b.OpenDevice(e1000e) }} {
		f, err := open()
		b.ok(err)
		b.ok(f.Close())
	}
}
