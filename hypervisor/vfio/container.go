package vfio

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// Container is the DMA address space of one guest: all functions of the host that the guest has share it. It owns its
// descriptor. Guest physical addresses are the devices' addresses.
//
// What is added to it are units: with NewContainer IOMMU groups, of which devices are had, and with NewIOMMUFD devices. Its
// methods are safe for concurrent use.
type Container struct {
	iommu iommu

	mu    sync.Mutex
	ready bool // it has an IOMMU
	ram   []memory.Range
	bars  map[uint64]uint64 // bytes of the pieces of BARs that other devices reach, by address
	dirty *dirtyLog         // nil unless somebody asked for it
}

// iommu is the kernel's side of a container.
type iommu interface {
	// add puts an open unit into the address space. remove takes it out, also one that did not get in; then its descriptor is
	// closed.
	add(fd int) error
	remove(fd int) error
	// open returns a new descriptor of a device of a unit that is in.
	open(fd int, address string) (int, error)
	// setUp makes the address space of the first unit.
	setUp() error
	// ranges are those that can be mapped; nil when the kernel does not tell (before Linux 5.4).
	ranges() ([]memory.Range, error)
	mapDMA(iova uint64, host []byte) error
	unmapDMA(iova, size uint64) error
	// startDirty begins to note which pages devices write, for maps that are there and for those to come; false when it cannot,
	// and then it does not. When it notes already, it looks at units that came since.
	startDirty() (tells bool, err error)
	stopDirty() error
	// readDirty sets the bits of pages of a map, all of it, that devices may have written since they were told of last. bitmap
	// is zero before.
	readDirty(r memory.Range, bitmap []uint64) error
	close() error
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
	return newContainer(type1(fd)), nil
}

func newContainer(i iommu) *Container { return &Container{iommu: i, bars: map[uint64]uint64{}} }

// Add puts a unit into the container, by its descriptor, which stays the caller's: Remove comes before it is closed. The first
// one decides about the IOMMU.
func (c *Container) Add(fd int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.iommu.add(fd); err != nil {
		if (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EADDRINUSE)) && len(c.ram) > 0 {
			return fmt.Errorf("%w (a region that is reserved for it is where guest RAM is; a domain that is started with the device has its RAM elsewhere)", err)
		}
		return err
	}
	if c.dirty != nil && c.dirty.tells {
		tells, err := c.iommu.startDirty()
		if err != nil {
			return fmt.Errorf("let the IOMMU note what the device writes: %w", err)
		}
		c.dirty.tells = tells
	}
	if c.ready {
		return nil
	}
	err := c.iommu.setUp()
	c.ready = err == nil
	return err
}

// Remove takes a unit out of the container, also one that Add failed for. Its devices are closed.
func (c *Container) Remove(fd int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	if c.dirty != nil && c.dirty.tells { // what it has written goes with it
		for _, r := range c.ram {
			errs = append(errs, c.readDirty(r))
		}
	}
	return errors.Join(append(errs, c.iommu.remove(fd))...)
}

// OpenDevice opens a device of a unit that is in the container, by its address on the host (0000:01:00.0). The kernel has
// reset it, as far as it can.
func (c *Container) OpenDevice(unit int, address string) (Device, error) {
	fd, err := c.iommu.open(unit, address)
	if err != nil {
		return nil, err
	}
	return newDevice(fd, address)
}

// Ranges returns the guest physical addresses where its devices can reach memory, in order; nil is everywhere, as far as the
// kernel tells.
func (c *Container) Ranges() ([]memory.Range, error) { return c.iommu.ranges() }

// MapRAM lets the devices reach guest RAM, which is pinned from now on. A failure names the range, and maps nothing.
func (c *Container) MapRAM(m *memory.Memory) error {
	reach, err := c.Ranges()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range m.Regions() {
		if reach != nil && !within(r.GPA, r.Size, reach) {
			return errors.Join(fmt.Errorf("devices of the host cannot reach guest RAM at %#x to %#x: their IOMMU reaches %s "+
				"(a domain that is started with the device has its RAM there, as far as it fits)", r.GPA, r.GPA+r.Size-1, describe(reach)), c.unmapRAM())
		}
		if err := c.iommu.mapDMA(r.GPA, r.Host); err != nil {
			err = fmt.Errorf("map guest RAM %#x to %#x for DMA: %w%s", r.GPA, r.GPA+r.Size-1, err, mapRemedy(err))
			return errors.Join(err, c.unmapRAM())
		}
		c.ram = append(c.ram, memory.Range{GPA: r.GPA, Size: r.Size})
		c.dirty.add(c.ram[len(c.ram)-1])
	}
	return nil
}

func mapRemedy(err error) string {
	switch {
	case errors.Is(err, unix.ENOMEM):
		return " (the locked-memory limit, or the host's memory, is too small for all of guest RAM)"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EADDRINUSE):
		return " (the IOMMU has too few address bits, or a reserved region is there)"
	case errors.Is(err, unix.ENOSPC):
		return " (the container has all the maps that vfio_iommu_type1.dma_entry_limit allows)"
	}
	return ""
}

// UnmapRAM takes RAM away from the devices, which must be quiet and still in the container.
func (c *Container) UnmapRAM() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unmapRAM()
}

func (c *Container) unmapRAM() error {
	var errs []error
	for _, r := range c.ram {
		if err := c.iommu.unmapDMA(r.GPA, r.Size); err != nil {
			errs = append(errs, fmt.Errorf("unmap guest RAM at %#x: %w", r.GPA, err))
		}
	}
	c.ram = nil
	return errors.Join(errs...)
}

// MapBAR implements Peers.
func (c *Container) MapBAR(gpa uint64, host []byte) error {
	reach, err := c.Ranges()
	if err != nil {
		return err
	}
	size := uint64(len(host))
	if reach != nil && !within(gpa, size, reach) {
		return fmt.Errorf("the IOMMU reaches %s", describe(reach))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.iommu.mapDMA(gpa, host); err != nil {
		return err
	}
	c.bars[gpa] = size
	return nil
}

// UnmapBAR implements Peers.
func (c *Container) UnmapBAR(gpa uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	size, ok := c.bars[gpa]
	if !ok {
		return nil
	}
	if err := c.iommu.unmapDMA(gpa, size); err != nil {
		return err
	}
	delete(c.bars, gpa)
	return nil
}

// Close gives the address space up. Its units are removed and closed before.
func (c *Container) Close() error { return c.iommu.close() }

// within reports whether one of the ranges has all of the size bytes at gpa.
func within(gpa, size uint64, ranges []memory.Range) bool {
	for _, r := range ranges {
		if gpa >= r.GPA && size <= r.Size && gpa-r.GPA <= r.Size-size {
			return true
		}
	}
	return false
}

// describe lists ranges for a message.
func describe(ranges []memory.Range) string {
	if len(ranges) == 0 {
		return "nothing"
	}
	var out []string
	for _, r := range ranges {
		out = append(out, fmt.Sprintf("%#x to %#x", r.GPA, r.GPA+r.Size-1))
	}
	return strings.Join(out, ", ")
}
