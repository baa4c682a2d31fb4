package hypervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
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

// openHostdevs puts the IOMMU groups of the functions that the guest has from the start into its container, and learns where
// their DMA reaches, before it is decided where RAM goes.
func (m *Machine) openHostdevs() error {
	d := &m.devices.hostdevs
	for i := range m.cfg.Hostdevs {
		c := &m.cfg.Hostdevs[i]
		if d.container == nil {
			if err := m.openContainer(m.cfg.VFIO); err != nil {
				return err
			}
		}
		if err := m.joinGroup(c); err != nil {
			return fmt.Errorf("host device %s: PCI device %s: %w", c.ID, c.Host, err)
		}
	}
	if d.container == nil {
		return nil
	}
	var err error
	m.reach, err = d.container.Ranges()
	return err
}

// makeHostdevs gives the guest its functions of the host from the start. Their groups are in the container.
func (m *Machine) makeHostdevs() error {
	if m.devices.hostdevs.container == nil {
		return nil
	}
	m.mem.Pin(true)
	if err := m.devices.hostdevs.container.MapRAM(m.mem); err != nil {
		return err
	}
	for i := range m.cfg.Hostdevs {
		if err := m.makeHostdev(&m.cfg.Hostdevs[i]); err != nil {
			return fmt.Errorf("host device %s: %w", m.cfg.Hostdevs[i].ID, err)
		}
	}
	return nil
}

// attachHostdev gives a machine that runs one more function of the host. container is needed for the first.
func (m *Machine) attachHostdev(c *Hostdev, container FileName) error {
	d := &m.devices.hostdevs
	first := d.container == nil
	if first {
		if err := m.openContainer(container); err != nil {
			return err
		}
	}
	err := m.joinGroup(c)
	if err == nil && first {
		m.mem.Pin(true)
		err = d.container.MapRAM(m.mem)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("PCI device %s: %w", c.Host, err), m.leaveGroup(c.ID))
	}
	return m.makeHostdev(c)
}

// makeHostdev gives the guest a function of the host whose group is in the container, with guest RAM within reach.
func (m *Machine) makeHostdev(c *Hostdev) error {
	d := &m.devices.hostdevs
	group, ok := d.groupOf(c.ID)
	if !ok {
		return fmt.Errorf("PCI device %s: its IOMMU group is not in the guest's container", c.Host)
	}
	rom, err := m.host.rom(c.ROM)
	if err != nil {
		return errors.Join(fmt.Errorf("ROM file: %w", err), m.leaveGroup(c.ID))
	}
	dev, err := vfio.OpenDevice(group, c.Host)
	if err != nil {
		return errors.Join(err, m.leaveGroup(c.ID))
	}
	if err := dev.Reset(); err != nil { // vfio-pci did what it could when it was opened
		m.host.Logf("%s: %v", c.ID, err)
	}
	f, err := vfio.New(vfio.Config{Name: c.ID, Device: dev, Slots: d.slots, Peers: d.container, ROM: rom, NoROM: c.NoROM, Interrupts: m.irq, Levels: m.irq, Logf: m.host.Logf,
		Notices: vfio.Notices{
			Failed: func() { m.events.put(guestEvent{eventHostdevError, c.ID}) },
			Wanted: func() { m.wanted.put(c.ID) },
		}})
	if err != nil {
		return errors.Join(fmt.Errorf("PCI device %s: %w", c.Host, err), dev.Close(), m.leaveGroup(c.ID))
	}
	if c.Multi {
		f.PCI().SetMultiFunction()
	}
	return m.plug(device{id: c.ID, at: pciAddress(c.Address), function: f.PCI(), removable: true, close: func() {
		if err := errors.Join(f.Close(), m.leaveGroup(c.ID)); err != nil {
			m.host.Logf("give a host device up: %v", err)
		}
	}})
}

// rom reads a file with an expansion ROM; nil for none.
func (h *Host) rom(name FileName) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	fd, err := h.take(name, "ROM")
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "ROM")
	defer f.Close()
	image, err := io.ReadAll(io.LimitReader(f, vfio.MaxROM+1))
	if err != nil {
		return nil, err
	}
	return image, vfio.CheckROM(image)
}

// openContainer makes the address space of the devices' DMA.
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
	d := &m.devices.hostdevs
	if d.slots == nil {
		d.slots = &barSlots{vm: m.vm}
	}
	d.container, d.groups = container, map[uint64]*hostGroup{}
	return nil
}

// joinGroup puts the group of a function into the container, if it is not there yet. leaveGroup undoes it, also when it failed.
func (m *Machine) joinGroup(c *Hostdev) error {
	d := &m.devices.hostdevs
	if c.GroupOf != "" {
		for _, g := range d.groups {
			if slices.Contains(g.users, c.GroupOf) {
				g.users = append(g.users, c.ID)
				return nil
			}
		}
		return fmt.Errorf("no device %s is there that has its IOMMU group", c.GroupOf)
	}
	fd, err := m.host.take(c.Group, "IOMMU group")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return fmt.Errorf("look at the IOMMU group: %w", err)
	}
	if g := d.groups[st.Rdev]; g != nil {
		g.users = append(g.users, c.ID)
		return unix.Close(fd)
	}
	d.groups[st.Rdev] = &hostGroup{fd: fd, users: []string{c.ID}}
	return d.container.AddGroup(fd)
}

// groupOf returns the descriptor of a device's group.
func (d *hostdevs) groupOf(id string) (int, bool) {
	for _, g := range d.groups {
		if slices.Contains(g.users, id) {
			return g.fd, true
		}
	}
	return -1, false
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
		if m.mem != nil { // else the machine did not come into being
			m.mem.Pin(false)
		}
	}
	return errors.Join(errs...)
}

// closeHostdevs gives up what a machine that did not come into being has of VFIO; that of devices goes with them.
func (m *Machine) closeHostdevs() {
	for _, g := range m.devices.hostdevs.groups {
		for _, id := range slices.Clone(g.users) {
			if err := m.leaveGroup(id); err != nil {
				m.host.Logf("give a host device up: %v", err)
			}
		}
	}
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
