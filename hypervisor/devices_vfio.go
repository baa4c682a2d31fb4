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

// hostdevs is what the functions of the host that the guest has share: one address space for their DMA, and the units in it.
type hostdevs struct {
	container *vfio.Container // nil while there are none
	iommufd   bool            // what container is
	units     map[uint64]*hostUnit
	slots     *barSlots
}

// hostUnit is what the container takes, by the device number of its file: an IOMMU group, which functions of one group share, or
// with iommufd a device.
type hostUnit struct {
	fd    int
	users []string // devices
}

// openHostdevs puts the functions that the guest has from the start into its container, and learns where their DMA reaches,
// before it is decided where RAM goes.
func (m *Machine) openHostdevs() error {
	d := &m.devices.hostdevs
	for i := range m.cfg.Hostdevs {
		c := &m.cfg.Hostdevs[i]
		if d.container == nil {
			if err := m.openContainer(m.cfg.VFIO, m.cfg.IOMMUFD); err != nil {
				return err
			}
		}
		if err := m.joinContainer(c); err != nil {
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

// makeHostdevs gives the guest its functions of the host from the start. They are in the container.
func (m *Machine) makeHostdevs() error {
	if m.devices.hostdevs.container == nil {
		return nil
	}
	if err := m.letDMA(); err != nil {
		return err
	}
	for i := range m.cfg.Hostdevs {
		if err := m.makeHostdev(&m.cfg.Hostdevs[i]); err != nil {
			return fmt.Errorf("host device %s: %w", m.cfg.Hostdevs[i].ID, err)
		}
	}
	return nil
}

// attachHostdev gives a machine that runs one more function of the host, in a container if it is the first.
func (m *Machine) attachHostdev(a *Attachment) error {
	d, c := &m.devices.hostdevs, a.Hostdev
	first := d.container == nil
	if first {
		if err := m.openContainer(a.VFIO, a.IOMMUFD); err != nil {
			return err
		}
	}
	err := m.joinContainer(c)
	if err == nil && first {
		err = m.letDMA()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("PCI device %s: %w", c.Host, err), m.leaveContainer(c.ID))
	}
	return m.makeHostdev(c)
}

// letDMA lets the functions of the host reach guest RAM, whose pages stay where they are from now on.
func (m *Machine) letDMA() error {
	m.mem.Pin(true)
	d := &m.devices.hostdevs
	if err := d.container.MapRAM(m.mem); err != nil {
		return err
	}
	m.dirty.Add(hostdevWriter, d.container)
	return nil
}

// makeHostdev gives the guest a function of the host that is in the container, with guest RAM within reach.
func (m *Machine) makeHostdev(c *Hostdev) error {
	d := &m.devices.hostdevs
	unit, ok := d.unitOf(c.ID)
	if !ok {
		return fmt.Errorf("PCI device %s is not in the guest's container", c.Host)
	}
	rom, err := m.host.rom(c.ROM)
	if err != nil {
		return errors.Join(fmt.Errorf("ROM file: %w", err), m.leaveContainer(c.ID))
	}
	dev, err := d.container.OpenDevice(unit, c.Host)
	if err != nil {
		return errors.Join(err, m.leaveContainer(c.ID))
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
		return errors.Join(fmt.Errorf("PCI device %s: %w", c.Host, err), dev.Close(), m.leaveContainer(c.ID))
	}
	if c.Multi {
		f.PCI().SetMultiFunction()
	}
	return m.plug(device{id: c.ID, at: pciAddress(c.Address), function: f.PCI(), removable: true, close: func() {
		if err := errors.Join(f.Close(), m.leaveContainer(c.ID)); err != nil {
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

// openContainer makes the address space of the devices' DMA: of VFIO's container, or of iommufd when that is named.
func (m *Machine) openContainer(container, iommufd FileName) error {
	name, what, open := container, "VFIO container", vfio.NewContainer
	if iommufd != "" {
		name, what, open = iommufd, "iommufd", vfio.NewIOMMUFD
	}
	fd, err := m.host.take(name, what)
	if err != nil {
		return err
	}
	d := &m.devices.hostdevs
	if d.container, err = open(fd); err != nil {
		unix.Close(fd)
		return err
	}
	if d.slots == nil {
		d.slots = &barSlots{vm: m.vm}
	}
	d.iommufd, d.units = iommufd != "", map[uint64]*hostUnit{}
	return nil
}

// joinContainer puts a function, or its group, into the container, if it is not there yet. leaveContainer undoes it, also when
// it failed.
func (m *Machine) joinContainer(c *Hostdev) error {
	d := &m.devices.hostdevs
	if c.GroupOf != "" {
		for _, u := range d.units {
			if slices.Contains(u.users, c.GroupOf) {
				u.users = append(u.users, c.ID)
				return nil
			}
		}
		return fmt.Errorf("no device %s is there that has its IOMMU group", c.GroupOf)
	}
	fd, err := m.takeUnit(c)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return fmt.Errorf("look at what VFIO has of it: %w", err)
	}
	if u := d.units[st.Rdev]; u != nil {
		u.users = append(u.users, c.ID)
		return unix.Close(fd)
	}
	d.units[st.Rdev] = &hostUnit{fd: fd, users: []string{c.ID}}
	return d.container.Add(fd)
}

// takeUnit returns the descriptor by which a function comes into the container. Both kinds of unit in one container cannot be.
func (m *Machine) takeUnit(c *Hostdev) (int, error) {
	switch has := m.devices.hostdevs.iommufd; {
	case has && c.Cdev == "":
		return -1, errors.New("the guest's other devices of the host use iommufd, and it does not; they share one address space")
	case !has && c.Cdev != "":
		return -1, errors.New("the guest's other devices of the host do not use iommufd, and it does; they share one address space")
	case has:
		return m.host.take(c.Cdev, "VFIO device")
	}
	return m.host.take(c.Group, "IOMMU group")
}

// unitOf returns the descriptor of a device's unit.
func (d *hostdevs) unitOf(id string) (int, bool) {
	for _, u := range d.units {
		if slices.Contains(u.users, id) {
			return u.fd, true
		}
	}
	return -1, false
}

// leaveContainer notes that a device does not use its unit any more. The last one takes guest RAM out of reach and the
// container with it.
func (m *Machine) leaveContainer(id string) error {
	d := &m.devices.hostdevs
	var errs []error
	for number, u := range d.units {
		u.users = slices.DeleteFunc(u.users, func(user string) bool { return user == id })
		if len(u.users) > 0 {
			continue
		}
		delete(d.units, number)
		if len(d.units) == 0 {
			if m.dirty != nil { // else the machine did not come into being
				m.dirty.Remove(hostdevWriter)
			}
			errs = append(errs, d.container.UnmapRAM())
		}
		errs = append(errs, d.container.Remove(u.fd), unix.Close(u.fd))
	}
	if len(d.units) == 0 && d.container != nil {
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
	for _, u := range m.devices.hostdevs.units {
		for _, id := range slices.Clone(u.users) {
			if err := m.leaveContainer(id); err != nil {
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
