package hypervisor

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/acpi"
	"virtd/hypervisor/monitor"
	"virtd/hypervisor/pci"
	"virtd/hypervisor/vhostuser"
)

// Attachment is one device for a machine that runs: a fragment of Config with exactly one of the fields.
type Attachment struct {
	Disk    *Disk    `json:"disk,omitempty"`
	NIC     *NIC     `json:"nic,omitempty"`
	RNG     *RNG     `json:"rng,omitempty"`
	Hostdev *Hostdev `json:"hostdev,omitempty"`
	// VhostUserDisk needs a machine whose RAM is shared memory.
	VhostUserDisk *VhostUserDisk `json:"vhostUserDisk,omitempty"`
	// VFIO is the container of a Hostdev, /dev/vfio/vfio, or IOMMUFD, /dev/iommu, when it has a Cdev. It is used when the
	// machine has none yet.
	VFIO    FileName `json:"vfio,omitempty"`
	IOMMUFD FileName `json:"iommufd,omitempty"`
}

// unplugPatience is how long a request to let go of a device stands before it can be made again. QEMU's is the same.
const unplugPatience = 5 * time.Second

// makeHotplug makes the registers by which devices come and go: behind root ports on q35, on the bus on pc. Without ACPI
// the guest has no way to hear of it.
func (m *Machine) makeHotplug() {
	var slots []pci.HotplugSlot
	switch {
	case m.cfg.CPU.NoACPI:
	case m.layout.q35:
		for _, p := range m.cfg.RootPorts {
			slots = append(slots, pci.HotplugSlot{Bus: p.Index})
		}
	default:
		for slot := uint8(acpi.FirstHotplugSlot); slot < 32; slot++ {
			slots = append(slots, pci.HotplugSlot{Slot: slot})
		}
	}
	m.board.hotplug = pci.NewHotplug(pci.HotplugConfig{
		Slots: slots, Notify: func() { m.board.pm.RaiseGPE(acpi.HotplugGPE) }, Ejected: m.ejected, Refused: m.refused,
	})
}

// bus names the bus of an address as QEMU's users know it.
func (m *Machine) bus(a pci.Address) string {
	switch {
	case a.Bus != 0:
		return fmt.Sprintf("pci.%d", a.Bus)
	case m.layout.q35:
		return "pcie.0"
	}
	return "pci.0"
}

// Attach gives the machine one more device and tells the guest. files are the descriptors that a names; they belong to the
// machine from now on, also when it fails. A device that a guest does not take is there all the same.
func (m *Machine) Attach(a Attachment, files map[FileName]int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() {
		for name := range files {
			if fd, ok := m.host.Files[name]; ok { // nobody took it
				unix.Close(fd)
				delete(m.host.Files, name)
			}
		}
	}()
	if m.host.Files == nil {
		m.host.Files = map[FileName]int{}
	}
	for name, fd := range files {
		m.host.Files[name] = fd
	}
	if state, _ := m.status.get(); state == StateShutdown {
		return fmt.Errorf("attach a device: %w", ErrEnded)
	}
	id, at, workers, make := a.kind(m)
	if make == nil {
		return errors.New("attach a device: one disk, network device, entropy device or host device at a time")
	}
	if m.devices.find(id) >= 0 {
		return fmt.Errorf("Duplicate device ID '%s'", id)
	}
	if address := pciAddress(at); !m.board.hotplug.Can(address) {
		return fmt.Errorf("Bus '%s' does not support hotplugging", m.bus(address))
	}
	if err := a.checkMemory(m); err != nil {
		return fmt.Errorf("device %s: %w", id, err)
	}
	if err := make(); err != nil {
		return fmt.Errorf("device %s: %w", id, err)
	}
	m.devices.list[m.devices.find(id)].workers = workers // under mu, and nobody else looks at it
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + workers)  // as for those that were there from the start
	m.board.hotplug.Announce(pciAddress(at))
	return nil
}

// checkMemory refuses a device whose process could not map the machine's RAM.
func (a *Attachment) checkMemory(m *Machine) error {
	if a.VhostUserDisk == nil && (a.NIC == nil || a.NIC.VhostUser == nil) {
		return nil
	}
	return vhostuser.CheckMemory(m.mem)
}

// kind returns what Attach needs to know; make is nil when a is not one device.
func (a *Attachment) kind(m *Machine) (id string, at PCIAddress, workers int, make func() error) {
	n := 0
	for _, given := range []bool{a.Disk != nil, a.NIC != nil, a.RNG != nil, a.Hostdev != nil, a.VhostUserDisk != nil} {
		if given {
			n++
		}
	}
	switch {
	case n != 1:
	case a.Disk != nil:
		return a.Disk.ID, a.Disk.Address, 1, func() error { return m.makeDisk(a.Disk) }
	case a.NIC != nil:
		return a.NIC.ID, a.NIC.Address, a.NIC.Queues + 1, func() error { return m.makeNIC(a.NIC) }
	case a.VhostUserDisk != nil:
		return a.VhostUserDisk.ID, a.VhostUserDisk.Address, 0, func() error { return m.makeVhostUserDisk(a.VhostUserDisk) }
	case a.RNG != nil:
		return a.RNG.ID, a.RNG.Address, 0, func() error { return m.makeRNG(a.RNG) }
	default:
		return a.Hostdev.ID, a.Hostdev.Address, 0, func() error { return m.attachHostdev(a) }
	}
	return "", PCIAddress{}, 0, nil
}

// Detach asks the guest to let go of a device. DEVICE_DELETED follows when it did and everything that the device held is
// released; until then the device works. A guest that does not answer can be asked again after a while.
func (m *Machine) Detach(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if state, _ := m.status.get(); state == StateShutdown {
		return fmt.Errorf("detach device %s: %w", id, ErrEnded)
	}
	i := m.devices.find(id)
	if i < 0 {
		return fmt.Errorf("Device '%s' not found%w", id, quietly(monitor.ErrNotFound))
	}
	d := &m.devices.list[i]
	switch {
	case !m.board.hotplug.Can(d.at):
		return fmt.Errorf("Bus '%s' does not support hotplugging", m.bus(d.at))
	case !d.removable:
		return fmt.Errorf("Device '%s' does not support hotplugging", id)
	case !d.requested.IsZero() && time.Since(*d.requested) < unplugPatience:
		return fmt.Errorf("Device %s is already in the process of unplug", id)
	}
	*d.requested = time.Now()
	m.board.hotplug.Request(d.at)
	return nil
}

// Devices returns the names of the devices behind the virtio transport and of the functions of the host, in the order in which they came.
func (m *Machine) Devices() []string {
	m.devices.mu.RLock()
	defer m.devices.mu.RUnlock()
	var out []string
	for i := range m.devices.list {
		out = append(out, m.devices.list[i].id)
	}
	return out
}

func (d *devices) find(id string) int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.IndexFunc(d.list, func(x device) bool { return x.id == id })
}

// ejectQueue holds what the guest has let go of and what is not freed yet: the places of devices, and vCPUs by number.
type ejectQueue struct {
	mu    sync.Mutex
	slots []pci.HotplugSlot
	cpus  []int
	wake  chan struct{}
}

func (q *ejectQueue) init() { q.wake = make(chan struct{}, 1) }

func (q *ejectQueue) put(s pci.HotplugSlot) {
	q.mu.Lock()
	q.slots = append(q.slots, s)
	q.mu.Unlock()
	q.notify()
}

func (q *ejectQueue) putCPU(cpu int) {
	q.mu.Lock()
	q.cpus = append(q.cpus, cpu)
	q.mu.Unlock()
	q.notify()
}

func (q *ejectQueue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *ejectQueue) take() (slots []pci.HotplugSlot, cpus []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	slots, cpus = q.slots, q.cpus
	q.slots, q.cpus = nil, nil
	return slots, cpus
}

// ejected takes a device away from the guest that let it go: for the guest it is gone when its write ends. Freeing it is
// not a vCPU's work, and has to wait until no vCPU is inside it.
func (m *Machine) ejected(s pci.HotplugSlot) {
	if f := m.board.root.Function(pci.Address{Bus: s.Bus, Slot: s.Slot}); f != nil {
		m.board.root.Remove(f)
	}
	m.ejects.put(s)
}

// refused tells that the guest will not let go of a device.
func (m *Machine) refused(s pci.HotplugSlot, status uint8) {
	m.devices.mu.RLock()
	defer m.devices.mu.RUnlock()
	for i := range m.devices.list {
		if d := &m.devices.list[i]; d.at.Bus == s.Bus && d.at.Slot == s.Slot {
			m.host.Logf("%s: the guest does not let go of it (status %#x)", d.id, status)
			m.host.Event(deviceEvent(monitor.EventUnplugError, d.id))
		}
	}
}

func deviceEvent(name, id string) monitor.Event {
	return monitor.Event{Name: name, Data: map[string]string{"device": id, "path": "/machine/peripheral/" + id}}
}

// finishEjects frees the devices and vCPUs that the guest let go of. It is the control goroutine's.
func (m *Machine) finishEjects() {
	m.mu.Lock()
	defer m.mu.Unlock()
	state, _ := m.status.get()
	if state == StateShutdown {
		return
	}
	slots, cpus := m.ejects.take()
	if len(slots)+len(cpus) == 0 {
		return
	}
	if state == StateRunning {
		m.runner.stop()
	}
	m.dropAll(slots, cpus)
	// What else the guest did meanwhile comes next, before it goes on.
	if state == StateRunning && !m.events.waiting() {
		m.runner.start()
	}
}

// completeRemovals takes away what a guest was asked to let go of when its machine is reset: nobody uses it any more. The
// vCPUs are stopped and the caller holds mu.
func (m *Machine) completeRemovals() {
	slots, cpus := m.ejects.take()
	for _, s := range m.board.hotplug.Requested() {
		if f := m.board.root.Function(pci.Address{Bus: s.Bus, Slot: s.Slot}); f != nil {
			m.board.root.Remove(f)
			m.board.hotplug.Vacate(s)
			slots = append(slots, s)
		}
	}
	m.dropAll(slots, append(cpus, m.vacateCPUs()...))
}

// dropAll frees what was ejected. No vCPU runs, and the caller holds mu.
func (m *Machine) dropAll(slots []pci.HotplugSlot, cpus []int) {
	for _, s := range slots {
		m.drop(s)
	}
	for _, cpu := range cpus {
		m.dropCPU(cpu)
	}
}

// drop frees the device that was at a place. No vCPU runs, and the caller holds mu.
func (m *Machine) drop(s pci.HotplugSlot) {
	l := &m.devices
	i := slices.IndexFunc(l.list, func(d device) bool { return d.at.Bus == s.Bus && d.at.Slot == s.Slot && !m.present(&d) })
	if i < 0 {
		return
	}
	d := l.list[i]
	l.mu.Lock()
	l.list = slices.Delete(l.list, i, i+1)
	l.disks = slices.DeleteFunc(l.disks, func(x disk) bool { return x.cfg.ID == d.id })
	l.vhostUserDisks = slices.DeleteFunc(l.vhostUserDisks, func(x vhostUserDisk) bool { return x.cfg.ID == d.id })
	l.nics = slices.DeleteFunc(l.nics, func(x nic) bool { return x.cfg.ID == d.id })
	l.mu.Unlock()
	d.free()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) - d.workers)
	m.host.Event(deviceEvent(monitor.EventDeleted, d.id))
}

// present reports whether the guest sees the device: another may have come to its place.
func (m *Machine) present(d *device) bool {
	return m.board.root.Function(d.at) == d.function
}
