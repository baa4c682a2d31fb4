package hypervisor

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/kvm"
	"virtd/hypervisor/vfio"
)

// hostdevs are the functions of the host that the guest has.
type hostdevs struct {
	container *vfio.Container // nil without any
	functions []*vfio.Function
	fds       []int // of the devices, for the confinement
	logf      func(string, ...any)
}

// makeHostdevs gives the guest its functions of the host: all in one container, with guest RAM mapped for DMA once the first
// group has brought the IOMMU.
func (m *Machine) makeHostdevs() error {
	if len(m.cfg.Hostdevs) == 0 {
		return nil
	}
	d := &m.devices.hostdevs
	d.logf = m.host.Logf
	fd, err := m.host.take(m.cfg.VFIO, "VFIO container")
	if err != nil {
		return err
	}
	if d.container, err = vfio.NewContainer(fd); err != nil {
		return err
	}
	m.mem.Pin()
	groups := map[uint64]int{} // by device number: functions of one group share it
	slots := &barSlots{vm: m.vm}
	for i := range m.cfg.Hostdevs {
		c := &m.cfg.Hostdevs[i]
		if err := m.makeHostdev(c, groups, slots); err != nil {
			return fmt.Errorf("host device %s (PCI device %s): %w", c.ID, c.Host, err)
		}
	}
	return nil
}

func (m *Machine) makeHostdev(c *Hostdev, groups map[uint64]int, slots vfio.Slots) error {
	d := &m.devices.hostdevs
	group, err := m.group(c, groups)
	if err != nil {
		return err
	}
	dev, fd, err := vfio.OpenDevice(group, c.Host)
	if err != nil {
		return err
	}
	if err := dev.Reset(); err != nil { // vfio-pci did what it could when it was opened
		m.host.Logf("%s: %v", c.ID, err)
	}
	f, err := vfio.New(vfio.Config{Name: c.ID, Device: dev, Slots: slots, Interrupts: m.irq, Levels: m.irq, Logf: m.host.Logf})
	if err != nil {
		unix.Close(fd)
		return err
	}
	d.functions, d.fds = append(d.functions, f), append(d.fds, fd)
	if err := m.board.root.Add(pciAddress(c.Address), f.PCI()); err != nil {
		return err
	}
	m.board.hotplug.Occupy(pciAddress(c.Address), false) // the guest cannot let it go
	return nil
}

// group puts the group of a function into the container, if it is not there yet.
func (m *Machine) group(c *Hostdev, groups map[uint64]int) (int, error) {
	fd, err := m.host.take(c.Group, "IOMMU group")
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("look at the IOMMU group: %w", err)
	}
	if first, ok := groups[st.Rdev]; ok {
		return first, unix.Close(fd)
	}
	container := m.devices.hostdevs.container
	if err := container.AddGroup(fd); err != nil {
		return -1, err
	}
	if len(groups) == 0 {
		if err := container.MapRAM(m.mem); err != nil {
			return -1, err
		}
	}
	groups[st.Rdev] = fd
	return fd, nil
}

// close takes the functions away from the guest, whose vCPUs do not run any more.
func (d *hostdevs) close() {
	for _, f := range d.functions {
		if err := f.Close(); err != nil {
			d.logf("give a host device up: %v", err)
		}
	}
	if d.container != nil {
		if err := d.container.Close(); err != nil {
			d.logf("give VFIO up: %v", err)
		}
	}
	*d = hostdevs{}
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
