package hypervisor

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/kvm"
	"virtd/hypervisor/vfio"
)

// hostdevs is what the functions of the host that the guest has share: one address space for their DMA, and the IOMMU groups
// in it.
type hostdevs struct {
	container *vfio.Container // nil while there are none
	groups    map[uint64]*hostGroup
	slots     *barSlots
}

// hostGroup is an IOMMU group, by the device number of its file: functions of one group share it.
type hostGroup struct {
	fd    int
	users []string // devices
}

// makeHostdevs gives the guest its functions of the host from the start.
func (m *Machine) makeHostdevs() error {
	for i := range m.cfg.Hostdevs {
		if err := m.makeHostdev(&m.cfg.Hostdevs[i], m.cfg.VFIO); err != nil {
			return fmt.Errorf("host device %s: %w", m.cfg.Hostdevs[i].ID, err)
		}
	}
	return nil
}

// makeHostdev gives the guest one more function of the host. container is needed for the first.
func (m *Machine) makeHostdev(c *Hostdev, container FileName) error {
	d := &m.devices.hostdevs
	if d.container == nil {
		if err := m.openContainer(container); err != nil {
			return err
		}
	}
	group, err := m.joinGroup(c)
	if err != nil {
		return errors.Join(fmt.Errorf("PCI device %s: %w", c.Host, err), m.leaveGroup(c.ID))
	}
	dev, err := vfio.OpenDevice(group, c.Host)
	if err != nil {
		return errors.Join(err, m.leaveGroup(c.ID))
	}
	if err := dev.Reset(); err != nil { // vfio-pci did what it could when it was opened
		m.host.Logf("%s: %v", c.ID, err)
	}
	f, err := vfio.New(vfio.Config{Name: c.ID, Device: dev, Slots: d.slots, Interrupts: m.irq, Levels: m.irq, Logf: m.host.Logf,
		Notices: vfio.Notices{
			Failed: func() { m.events.put(guestEvent{eventHostdevError, c.ID}) },
			Wanted: func() { m.wanted.put(c.ID) },
		}})
	if err != nil {
		return errors.Join(fmt.Errorf("PCI device %s: %w", c.Host, err), dev.Close(), m.leaveGroup(c.ID))
	}
	return m.plug(device{id: c.ID, at: pciAddress(c.Address), function: f.PCI(), removable: true, close: func() {
		if err := errors.Join(f.Close(), m.leaveGroup(c.ID)); err != nil {
			m.host.Logf("give a host device up: %v", err)
		}
	}})
}

// openContainer makes the address space of the devices' DMA. RAM stays where it is from now on.
func (m *Machine) openContainer(name FileName) error {
	fd, err := m.host.take(name, "VFIO container")
	if err != nil {
		return err
	}
	container, err := vfio.NewContainer(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	m.mem.Pin(true)
	if d := &m.devices.hostdevs; d.slots == nil {
		d.slots = &barSlots{vm: m.vm}
	}
	m.devices.hostdevs.container, m.devices.hostdevs.groups = container, map[uint64]*hostGroup{}
	return nil
}

// joinGroup puts the group of a function into the container, if it is not there yet, and guest RAM within reach of the first.
// leaveGroup undoes it, also when it failed.
func (m *Machine) joinGroup(c *Hostdev) (int, error) {
	d := &m.devices.hostdevs
	if c.GroupOf != "" {
		for _, g := range d.groups {
			if slices.Contains(g.users, c.GroupOf) {
				g.users = append(g.users, c.ID)
				return g.fd, nil
			}
		}
		return -1, fmt.Errorf("no device %s is there that has its IOMMU group", c.GroupOf)
	}
	fd, err := m.host.take(c.Group, "IOMMU group")
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("look at the IOMMU group: %w", err)
	}
	if g := d.groups[st.Rdev]; g != nil {
		g.users = append(g.users, c.ID)
		return g.fd, unix.Close(fd)
	}
	first := len(d.groups) == 0
	d.groups[st.Rdev] = &hostGroup{fd: fd, users: []string{c.ID}}
	if err := d.container.AddGroup(fd); err != nil {
		return -1, err
	}
	if first {
		return fd, d.container.MapRAM(m.mem)
	}
	return fd, nil
}

// leaveGroup notes that a device does not use its group any more. The last one takes guest RAM out of reach and the container
// with it.
func (m *Machine) leaveGroup(id string) error {
	d := &m.devices.hostdevs
	var errs []error
	for number, g := range d.groups {
		g.users = slices.DeleteFunc(g.users, func(u string) bool { return u == id })
		if len(g.users) > 0 {
			continue
		}
		delete(d.groups, number)
		if len(d.groups) == 0 {
			errs = append(errs, d.container.UnmapRAM())
		}
		errs = append(errs, unix.Close(g.fd))
	}
	if len(d.groups) == 0 && d.container != nil {
		errs = append(errs, d.container.Close())
		d.container = nil
		m.mem.Pin(false)
	}
	return errors.Join(errs...)
}

// firstBARSlot is the first of KVM's memory slots that BARs use; those below are RAM's.
const firstBARSlot = 128

// barSlots are KVM's memory slots for BARs.
type barSlots struct {
	vm *kvm.VM

	mu   sync.Mutex
	next int
	free []int
	at   map[int]uint64
}

// Add implements vfio.Slots.
func (s *barSlots) Add(gpa uint64, host []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := firstBARSlot + s.next
	if n := len(s.free); n > 0 {
		slot = s.free[n-1]
	}
	if err := s.vm.SetMemory(slot, gpa, host, 0); err != nil {
		return 0, err
	}
	if n := len(s.free); n > 0 {
		s.free = s.free[:n-1]
	} else {
		s.next++
	}
	if s.at == nil {
		s.at = map[int]uint64{}
	}
	s.at[slot] = gpa
	return slot, nil
}

// Remove implements vfio.Slots.
func (s *barSlots) Remove(slot int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.vm.SetMemory(slot, s.at[slot], nil, 0); err != nil {
		return err
	}
	delete(s.at, slot)
	s.free = append(s.free, slot)
	return nil
}
