package vfio

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// iommufd is an address space of /dev/iommu (linux/iommufd.h): an IOAS, to which devices are attached by their own descriptors.
// Where a device's IOMMU notes writes, the device gets an I/O page table (HWPT) of the IOAS that was made for that, together
// with those that it fits; where not, the kernel finds one.
type iommufd struct {
	kernel  iommufdKernel
	ioas    uint32
	devices map[int]*boundDevice // by the descriptor of the device
	noting  []uint32             // page tables that note writes now
}

// boundDevice is a device in the address space.
type boundDevice struct {
	table uint32 // its page table that notes writes; 0 when it has none
}

// iommufdKernel is what the kernel does for an iommufd. Objects have numbers, which are not 0.
type iommufdKernel interface {
	// bind makes a device, by its descriptor, one of the iommufd.
	bind(fd int) (device uint32, err error)
	// attach lets a device reach what a page table, or an IOAS, maps; detach undoes it.
	attach(fd int, target uint32) error
	detach(fd int) error
	newIOAS() (uint32, error)
	// newTable makes a page table of an IOAS for a device, which can note writes.
	newTable(device, ioas uint32) (uint32, error)
	destroy(object uint32) error
	// ranges fills a list with the ranges that can be mapped, and says how many there are: more, with EMSGSIZE, than the list has.
	ranges(ioas uint32, list []iovaRange) (int, error)
	mapDMA(ioas uint32, iova uint64, host []byte) error
	unmapDMA(ioas uint32, iova, size uint64) error
	// notesWrites reports whether the IOMMU of a device can.
	notesWrites(device uint32) bool
	noteWrites(table uint32, on bool) error
	// written sets the bits of pages that were written since it was asked last.
	written(table uint32, r memory.Range, bitmap []uint64) error
	close() error
}

// NewIOMMUFD takes over an open /dev/iommu: a container whose units are devices, by their descriptors
// (/dev/vfio/devices/vfioN).
func NewIOMMUFD(fd int) (*Container, error) {
	i, err := newIOMMUFD(iommufdFile(fd))
	if err != nil {
		return nil, err
	}
	return newContainer(i), nil
}

func newIOMMUFD(k iommufdKernel) (*iommufd, error) {
	ioas, err := k.newIOAS()
	if err != nil {
		return nil, fmt.Errorf("make an address space of iommufd: %w", err)
	}
	return &iommufd{kernel: k, ioas: ioas, devices: map[int]*boundDevice{}}, nil
}

// add implements iommu: fd is a device's. Closing it, which is the caller's, unbinds the device.
func (i *iommufd) add(fd int) error {
	id, err := i.kernel.bind(fd)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("bind the device to iommufd: %w: the host has no interrupt remapping (iommufd.allow_unsafe_interrupts=1 does without), "+
			"or another device of its IOMMU group has a driver of the host", err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("bind the device to iommufd: %w: another program has it, or its IOMMU group", err)
	case err != nil:
		return fmt.Errorf("bind the device to iommufd: %w", err)
	}
	table, err := i.attach(fd, id)
	if err != nil {
		return fmt.Errorf("attach the device to the guest's address space: %w", err)
	}
	i.devices[fd] = &boundDevice{table: table}
	return nil
}

// attach finds a device a page table: one that notes writes, if it can, and else the kernel's choice.
func (i *iommufd) attach(fd int, device uint32) (table uint32, err error) {
	if i.kernel.notesWrites(device) {
		for _, t := range i.tables() {
			if i.kernel.attach(fd, t) == nil {
				return t, nil
			}
		}
		if t, err := i.kernel.newTable(device, i.ioas); err == nil {
			if i.kernel.attach(fd, t) == nil {
				return t, nil
			}
			if err := i.kernel.destroy(t); err != nil {
				return 0, err
			}
		}
	}
	return 0, i.kernel.attach(fd, i.ioas)
}

// tables are the page tables that note writes, each once.
func (i *iommufd) tables() []uint32 {
	var out []uint32
	for _, d := range i.devices {
		if d.table != 0 && !slices.Contains(out, d.table) {
			out = append(out, d.table)
		}
	}
	slices.Sort(out)
	return out
}

// remove implements iommu.
func (i *iommufd) remove(fd int) error {
	d := i.devices[fd]
	if d == nil { // it did not get in
		return nil
	}
	delete(i.devices, fd)
	if err := i.kernel.detach(fd); err != nil {
		return fmt.Errorf("detach a device from the guest's address space: %w", err)
	}
	if d.table == 0 || slices.Contains(i.tables(), d.table) {
		return nil
	}
	i.noting = slices.DeleteFunc(i.noting, func(t uint32) bool { return t == d.table })
	if err := i.kernel.destroy(d.table); err != nil {
		return fmt.Errorf("give an I/O page table up: %w", err)
	}
	return nil
}

// open implements iommu: the unit is the device, and the caller gets a descriptor of its own.
func (i *iommufd) open(fd int, address string) (int, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("share the descriptor of PCI device %s: %w", address, err)
	}
	return own, nil
}

// maxRanges bounds what is asked for: there are as many holes as regions that are reserved.
const maxRanges = 4096

func (i *iommufd) ranges() ([]memory.Range, error) {
	list := make([]iovaRange, 32)
	n, err := i.kernel.ranges(i.ioas, list)
	for range 4 { // there can be more each time, when a device comes meanwhile
		if !errors.Is(err, unix.EMSGSIZE) || n > maxRanges {
			break
		}
		list = make([]iovaRange, n)
		n, err = i.kernel.ranges(i.ioas, list)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the addresses that the IOMMU reaches: %w", err)
	}
	return wholePages(list[:min(n, len(list))]), nil
}

// setUp implements iommu: the address space is there from the start.
func (i *iommufd) setUp() error { return nil }

// mapDMA implements iommu. The kernel pins what is mapped, which it can with memory of its own only.
func (i *iommufd) mapDMA(iova uint64, host []byte) error {
	err := i.kernel.mapDMA(i.ioas, iova, host)
	if errors.Is(err, unix.EFAULT) {
		return fmt.Errorf("%w (iommufd maps no memory of devices; VFIO's container does)", err)
	}
	return err
}

// unmapDMA implements iommu.
func (i *iommufd) unmapDMA(iova, size uint64) error { return i.kernel.unmapDMA(i.ioas, iova, size) }

// startDirty implements iommu: one device whose IOMMU does not tell may write everywhere. A page table that notes already is
// not told again, because it would forget.
func (i *iommufd) startDirty() (bool, error) {
	for _, d := range i.devices {
		if d.table == 0 {
			return false, i.stopDirty()
		}
	}
	for _, t := range i.tables() {
		if slices.Contains(i.noting, t) {
			continue
		}
		if err := i.kernel.noteWrites(t, true); err != nil {
			return false, errors.Join(err, i.stopDirty())
		}
		i.noting = append(i.noting, t)
	}
	return true, nil
}

func (i *iommufd) stopDirty() error {
	var errs []error
	for _, t := range i.noting {
		errs = append(errs, i.kernel.noteWrites(t, false))
	}
	i.noting = nil
	return errors.Join(errs...)
}

func (i *iommufd) readDirty(r memory.Range, bitmap []uint64) error {
	for _, t := range i.noting {
		if err := i.kernel.written(t, r, bitmap); err != nil {
			return err
		}
	}
	return nil
}

// close implements iommu. The address space goes with the last descriptor of the iommufd, which a device that is still bound
// has too; so it is destroyed first, for an error to show.
func (i *iommufd) close() error {
	return errors.Join(i.kernel.destroy(i.ioas), i.kernel.close())
}
