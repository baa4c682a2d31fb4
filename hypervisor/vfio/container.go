package vfio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// Container is the DMA address space of one guest: all groups that the guest has share it. It owns its descriptor.
type Container struct {
	fd     int
	mapped []memory.Range
	iommu  bool
}

// NewContainer takes over an open /dev/vfio/vfio.
func NewContainer(fd int) (*Container, error) {
	v, err := ioctl(fd, reqGetAPIVersion, 0)
	if err != nil {
		return nil, fmt.Errorf("ask VFIO for its version: %w", err)
	}
	if v != apiVersion {
		return nil, fmt.Errorf("VFIO has version %d, this engine speaks %d", v, apiVersion)
	}
	if ok, err := ioctl(fd, reqCheckExtension, type1v2IOMMU); err != nil || ok == 0 {
		return nil, errors.New("VFIO has no type 1 IOMMU: load the module vfio_iommu_type1")
	}
	return &Container{fd: fd}, nil
}

// AddGroup puts an open IOMMU group into the container; closing the group takes it out. The first one decides about the IOMMU.
func (c *Container) AddGroup(fd int) error {
	status := groupStatus{argsz: sizeOf[groupStatus]()}
	if _, err := ioctlPtr(fd, reqGroupStatus, &status); err != nil {
		return fmt.Errorf("look at the IOMMU group: %w", err)
	}
	if status.flags&groupViable == 0 {
		return errors.New("the IOMMU group is not viable: another of its devices has a driver of the host")
	}
	container := int32(c.fd)
	if _, err := ioctlPtr(fd, reqSetContainer, &container); err != nil {
		return fmt.Errorf("put the IOMMU group into the guest's container: %w", err)
	}
	if c.iommu {
		return nil
	}
	if _, err := ioctl(c.fd, reqSetIOMMU, type1v2IOMMU); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("set up the IOMMU: %w: the host has no interrupt remapping (vfio_iommu_type1.allow_unsafe_interrupts=1 does without)", err)
		}
		return fmt.Errorf("set up the IOMMU: %w", err)
	}
	c.iommu = true
	return nil
}

// MapRAM lets the devices reach guest RAM, which is pinned from now on. A failure names the range.
func (c *Container) MapRAM(m *memory.Memory) error {
	for _, r := range m.Regions() {
		d := dmaMap{argsz: sizeOf[dmaMap](), flags: dmaRead | dmaWrite, vaddr: hostAddress(r.Host), iova: r.GPA, size: r.Size}
		if _, err := ioctlPtr(c.fd, reqIOMMUMapDMA, &d); err != nil {
			return fmt.Errorf("map guest RAM %#x to %#x for DMA: %w%s", r.GPA, r.GPA+r.Size-1, err, mapRemedy(err))
		}
		c.mapped = append(c.mapped, memory.Range{GPA: r.GPA, Size: r.Size})
	}
	return nil
}

func mapRemedy(err error) string {
	switch {
	case errors.Is(err, unix.ENOMEM):
		return " (the locked-memory limit, or the host's memory, is too small for all of guest RAM)"
	case errors.Is(err, unix.EINVAL):
		return " (the IOMMU has too few address bits, or a reserved region is there)"
	}
	return ""
}

// UnmapRAM takes RAM away from the devices, which must be quiet and still in the container.
func (c *Container) UnmapRAM() error {
	var errs []error
	for _, r := range c.mapped {
		d := dmaUnmap{argsz: sizeOf[dmaUnmap](), iova: r.GPA, size: r.Size}
		if _, err := ioctlPtr(c.fd, reqIOMMUUnmapDMA, &d); err != nil {
			errs = append(errs, fmt.Errorf("unmap guest RAM at %#x: %w", r.GPA, err))
		}
	}
	c.mapped = nil
	return errors.Join(errs...)
}

// Close gives the address space up. Its groups are closed before.
func (c *Container) Close() error { return unix.Close(c.fd) }
