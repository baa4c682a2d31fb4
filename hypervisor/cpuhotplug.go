package hypervisor

import (
	"errors"
	"fmt"
	"slices"

	"virtd/hypervisor/acpi"
	"virtd/hypervisor/chipset"
	"virtd/hypervisor/kvm"
	"virtd/hypervisor/monitor"
)

// makeCPUHotplug makes the registers by which vCPUs come and go. Without ACPI the guest has no way to hear of it, and
// older machine types have none.
func (m *Machine) makeCPUHotplug() error {
	if m.cfg.CPU.NoACPI || !PlugsCPUs(m.cfg.Machine) {
		return nil
	}
	present, err := m.cfg.CPU.present()
	if err != nil {
		return err
	}
	var ids []uint32
	for i := range m.cfg.CPU.Count {
		ids = append(ids, m.cpuid.APICID(i))
	}
	m.board.cpus = chipset.NewCPUHotplug(chipset.CPUHotplugConfig{
		APICIDs: ids, Notify: func() { m.board.pm.RaiseGPE(acpi.CPUHotplugGPE) }, Ejected: m.ejects.putCPU, Refused: m.cpuRefused,
	})
	for _, i := range present {
		m.board.cpus.Occupy(i)
	}
	return m.portSpace.Add(chipset.CPUHotplugPort, chipset.CPUHotplugPorts, m.board.cpus)
}

// cpuNumbers returns the numbers of the vCPUs that are there, in order.
func (m *Machine) cpuNumbers() []int {
	var out []int
	for _, c := range m.runner.cpus() {
		out = append(out, c.index)
	}
	return out
}

// checkCPUHotplug tells why vCPU i cannot come or go. The caller holds mu.
func (m *Machine) checkCPUHotplug(i int) error {
	state, _ := m.status.get()
	switch {
	case state == StateShutdown:
		return ErrEnded
	case m.cfg.CPU.NoACPI:
		return errors.New("a guest without ACPI cannot be told")
	case m.board.cpus == nil:
		return fmt.Errorf("the machine type %s has the processors that it starts with; use %s or %s", m.cfg.Machine, MachineQ35, MachinePC)
	case !m.board.cpus.Can(i):
		return fmt.Errorf("1 to %d can come and go in this machine", m.cfg.CPU.Count-1)
	case m.held != nil:
		return errors.New("the machine was saved")
	}
	return nil
}

// PlugCPU gives the machine, which was started, vCPU i and tells the guest. A vCPU that a guest does not take is there all
// the same. The guest decides when it executes; the vCPU's thread is there when PlugCPU returns.
func (m *Machine) PlugCPU(i int) error {
	select {
	case <-m.runner.up:
	case <-m.done:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.checkCPUHotplug(i)
	if err == nil {
		err = m.plugCPU(i)
	}
	if err != nil {
		return fmt.Errorf("plug vCPU %d: %w", i, err)
	}
	return nil
}

func (m *Machine) plugCPU(i int) error {
	running := !m.runner.stopping.Load()
	m.runner.stop()
	defer func() {
		if running && !m.events.waiting() {
			m.runner.start()
		}
	}()
	m.dropAll(m.ejects.take()) // it may be the one that the guest just let go of
	if _, there := m.runner.find(i); there {
		return errors.New("it is there already")
	}
	c := m.unplugged[i]
	if c == nil {
		var err error
		if c, err = m.laterVCPU(i); err != nil {
			return err
		}
		m.keepVCPU(c) // until it is there
	}
	// A new one too: only when its local APIC is set does KVM find it by its APIC ID.
	if err := c.powerOn(); err != nil {
		return err
	}
	first := m.runner.cpus()[0]
	if offset, err := first.v.TSCOffset(); err == nil { // where it fails, KVM keeps new vCPUs in step by itself
		if err := c.v.SetTSCOffset(offset); err != nil {
			return err
		}
	}
	delete(m.unplugged, i)
	place := m.runner.add(c)
	if len(m.frozen.tsc) > 0 {
		tsc := m.frozen.tsc[0]
		tsc.deadline = 0
		m.frozen.tsc = slices.Insert(m.frozen.tsc, place, tsc)
	}
	m.board.tables = nil
	m.board.cpus.Plug(i)
	return nil
}

// laterVCPU creates a vCPU of a machine that was started: with the CPUID and the frequency of the others, which may be
// those of a saved machine. The vCPUs are stopped and the caller holds mu.
func (m *Machine) laterVCPU(i int) (*vcpu, error) {
	first := m.runner.cpus()[0]
	khz, err := first.v.TSCKHz()
	if err != nil {
		return nil, err
	}
	c, err := m.createVCPU(i)
	if err != nil {
		return nil, err
	}
	own, err := c.v.TSCKHz()
	if err != nil || own == khz {
		khz = 0
	}
	leaves := m.guestCPUID(i)
	if first.leaves != nil {
		c.leaves = transplant(first.leaves, m.guestCPUID(first.index), leaves)
		leaves = c.leaves
	}
	if err := m.initVCPU(c, leaves, khz); err != nil {
		m.keepVCPU(c)
		return nil, err
	}
	return c, nil
}

// keepVCPU keeps a vCPU that is not there. One that was not initialized is powered on in vain later.
func (m *Machine) keepVCPU(c *vcpu) {
	if m.unplugged == nil {
		m.unplugged = map[int]*vcpu{}
	}
	m.unplugged[c.index] = c
}

// powerOn puts a vCPU that nobody runs back to power-on.
func (c *vcpu) powerOn() error {
	if c.initial == nil {
		return errors.New("it could not be initialized before")
	}
	if _, err := c.v.MPState(); err != nil { // takes an INIT or SIPI that came late, so that it does not come back
		return err
	}
	c.nmi.Store(false)
	_, err := c.v.SetState(c.initial)
	return err
}

// transplant returns the leaves of a vCPU for whose machine the leaves of the first one are another host's: where this
// host's leaves of the two differ, the bits in question are the vCPU's own.
func transplant(first, hostFirst, hostOwn []kvm.CPUIDEntry) []kvm.CPUIDEntry {
	out := slices.Clone(first)
	for n := range out {
		e := &out[n]
		a, b := leafOf(hostFirst, e.Function, e.Index), leafOf(hostOwn, e.Function, e.Index)
		for _, r := range []struct {
			to       *uint32
			from, by uint32
		}{{&e.EAX, a.EAX, b.EAX}, {&e.EBX, a.EBX, b.EBX}, {&e.ECX, a.ECX, b.ECX}, {&e.EDX, a.EDX, b.EDX}} {
			own := r.from ^ r.by
			*r.to = *r.to&^own | r.by&own
		}
	}
	return out
}

// UnplugCPU asks the guest to let vCPU i go. DEVICE_DELETED with its alias, vcpuN, follows when it did; until then the vCPU
// works. A guest that did not answer can be asked again.
func (m *Machine) UnplugCPU(i int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.checkCPUHotplug(i)
	if _, there := m.runner.find(i); err == nil && !there {
		err = fmt.Errorf("it is not there%w", quietly(monitor.ErrNotFound))
	}
	if err != nil {
		return fmt.Errorf("unplug vCPU %d: %w", i, err)
	}
	m.board.cpus.Request(i)
	return nil
}

// cpuAlias is the name of a vCPU in events, as QEMU's users know it.
func cpuAlias(i int) string { return fmt.Sprintf("vcpu%d", i) }

// cpuRefused tells that the guest will not let go of a vCPU.
func (m *Machine) cpuRefused(i int, status uint32) {
	m.host.Logf("vCPU %d: the guest does not let go of it (status %#x)", i, status)
	m.host.Event(deviceEvent(monitor.EventUnplugError, cpuAlias(i)))
}

// vacateCPUs takes the vCPUs away that a guest was asked to let go of, and returns them for dropCPU.
func (m *Machine) vacateCPUs() []int {
	if m.board.cpus == nil {
		return nil
	}
	cpus := m.board.cpus.Requested()
	for _, i := range cpus {
		m.board.cpus.Vacate(i)
	}
	return cpus
}

// dropCPU takes a vCPU that is ejected out of the machine. No vCPU runs, and the caller holds mu.
func (m *Machine) dropCPU(i int) {
	place, there := m.runner.find(i)
	if !there {
		return
	}
	c := m.runner.cpus()[place]
	m.runner.remove(c)
	if len(m.frozen.tsc) > place {
		m.frozen.tsc = slices.Delete(m.frozen.tsc, place, place+1)
	}
	if err := c.powerOn(); err != nil { // what it had KVM write into RAM must end now
		m.host.Logf("vCPU %d, which the guest let go of: %v", i, err)
	}
	m.keepVCPU(c)
	m.board.tables = nil
	m.host.Event(deviceEvent(monitor.EventDeleted, cpuAlias(i)))
}
