package hostcheck

import (
	"fmt"
	"io/fs"
)

// checkIOMMU tells whether devices of the host can be given to guests.
func checkIOMMU(h Host) Finding {
	groups, err := fs.ReadDir(h.Root, "sys/kernel/iommu_groups")
	if err != nil || len(groups) == 0 {
		return Finding{"iommu", Warn, "no IOMMU groups: PCI devices cannot be given to guests",
			"enable VT-d or AMD-Vi in the firmware's setup and boot with intel_iommu=on or amd_iommu=on"}
	}
	devices := 0
	for _, g := range groups {
		if members, err := fs.ReadDir(h.Root, "sys/kernel/iommu_groups/"+g.Name()+"/devices"); err == nil {
			devices += len(members)
		}
	}
	return Finding{"iommu", Pass, fmt.Sprintf("%d devices in %d groups", devices, len(groups)), ""}
}

// checkVFIO looks for the driver that hands devices to guests. virtd loads it when it is needed.
func checkVFIO(h Host) Finding {
	if _, err := fs.Stat(h.Root, "sys/bus/pci/drivers/vfio-pci"); err == nil {
		return Finding{"vfio-pci", Pass, "loaded", ""}
	}
	release, err := fs.ReadFile(h.Root, "proc/sys/kernel/osrelease")
	if err == nil {
		if _, err := fs.Stat(h.Root, "lib/modules/"+trimmed(release)+"/kernel/drivers/vfio/pci"); err == nil {
			return Finding{"vfio-pci", Pass, "not loaded; virtd loads it when a device is given to a guest", ""}
		}
	}
	return Finding{"vfio-pci", Warn, "the kernel does not have it: PCI devices cannot be given to guests",
		"install the package with the kernel's extra modules, or build the kernel with CONFIG_VFIO_PCI"}
}

// checkIOMMUFD says by which interface of the kernel devices can reach guest memory: nothing is amiss without iommufd.
func checkIOMMUFD(h Host) Finding {
	_, err := fs.Stat(h.Root, "dev/iommu")
	if err == nil {
		return Finding{"iommufd", Pass, "/dev/iommu is there, for devices with <driver iommufd='yes'/>", ""}
	}
	release, err := fs.ReadFile(h.Root, "proc/sys/kernel/osrelease")
	if err == nil {
		if _, err := fs.Stat(h.Root, "lib/modules/"+trimmed(release)+"/kernel/drivers/iommu/iommufd"); err == nil {
			return Finding{"iommufd", Pass, "not loaded; virtd loads it for devices with <driver iommufd='yes'/>", ""}
		}
	}
	return Finding{"iommufd", Pass, "the kernel does not have it; devices are given to guests through VFIO's container and group", ""}
}

func trimmed(b []byte) string {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return string(b)
}
