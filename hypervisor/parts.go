package hypervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"virtd/hypervisor/chipset"
	"virtd/hypervisor/kvm"
)

// part is one piece of a machine's state, by the name of its section. Parts of a machine that is saved stand still; those
// that are restored have not run.
type part struct {
	name    string
	save    func() ([]byte, error)
	restore func([]byte) error
}

// parts lists everything but RAM, in the order in which it is restored: the shape of the machine is compared first;
// time before who reads it; PCI before the devices on it; interrupt controllers after all that drives their pins;
// processors last. Devices are named by alias and PCI functions by address, so that the list may differ in order.
func (m *Machine) parts() ([]part, error) {
	b := &m.board
	list := []part{
		{"machine", m.saveShape, m.restoreShape},
		{"time/machine", m.clock.save, m.clock.restore},
		{"pci/config-address", saveJSON(b.config.Address), restoreJSON(func(a uint32) error { b.config.SetAddress(a); return nil })},
	}
	for _, f := range b.root.Functions() {
		list = append(list, part{"pci/" + f.Address().String(), f.Save, f.Restore})
	}
	if b.cpus != nil {
		list = append(list, part{"chipset/cpu-hotplug", b.cpus.Save, b.cpus.Restore})
	}
	list = append(list,
		part{"pci/hotplug", b.hotplug.Save, b.hotplug.Restore},
		part{"chipset/pm", b.pm.Save, b.pm.Restore},
		part{"chipset/rtc", b.rtc.Save, b.rtc.Restore},
		part{"chipset/i8042", b.kbd.Save, b.kbd.Restore})
	latches := chipset.Latches{CF9: b.cf9, Port92: b.port92, Post: &b.post, Speaker: &b.speaker, APM: &b.apm}
	list = append(list, part{"chipset/latches", latches.Save, latches.Restore})
	for _, s := range b.serials {
		list = append(list, part{"serial/" + s.id, s.uart.Save, s.uart.Restore})
	}
	for _, d := range m.devices.virtio() {
		list = append(list, part{"virtio/" + d.id, d.transport.Save, d.transport.Restore})
	}
	for _, id := range []uint32{kvm.ChipPICMaster, kvm.ChipPICSlave, kvm.ChipIOAPIC} {
		list = append(list, m.chipPart(id))
	}
	if m.pit != nil {
		list = append(list, part{"irq/pit", m.savePIT, m.restorePIT})
	}
	list = append(list, part{"irq/lines", func() ([]byte, error) { return nil, nil }, func([]byte) error { return m.irq.Reapply() }})
	for _, c := range m.runner.cpus() {
		list = append(list, part{fmt.Sprintf("cpu/%d", c.index), func() ([]byte, error) { return m.saveCPU(c) },
			func(state []byte) error { return m.restoreCPU(c, state) }})
	}
	return append(list, part{"time/guest", m.saveTime, m.restoreTime}), nil
}

func (m *Machine) chipPart(id uint32) part {
	return part{fmt.Sprintf("irq/chip%d", id), func() ([]byte, error) {
		c, err := m.vm.IRQChip(id)
		if err != nil {
			return nil, err
		}
		return c.Encode(), nil
	}, func(state []byte) error {
		c := &kvm.IRQChip{ID: id}
		if err := c.Decode(state); err != nil {
			return err
		}
		return m.vm.SetIRQChip(c)
	}}
}

func (m *Machine) savePIT() ([]byte, error) {
	p, err := m.vm.PIT()
	if err != nil {
		return nil, err
	}
	return p.Encode(), nil
}

func (m *Machine) restorePIT(state []byte) error {
	p := &kvm.PIT{}
	if err := p.Decode(state); err != nil {
		return err
	}
	return m.vm.SetPIT(p)
}

// shape is what a machine must have in common with the one whose state it takes over.
type shape struct {
	Version int      `json:"version"`
	Machine string   `json:"machine"`
	RAM     uint64   `json:"ram"` // bytes
	CPUs    int      `json:"cpus"`
	Present []int    `json:"present,omitempty"` // numbers of those, unless they are the first ones
	MaxCPUs int      `json:"maxCPUs"`
	PIT     bool     `json:"pit"`
	Serials []string `json:"serials"`
	Virtio  []string `json:"virtio"` // ID=address
}

func (m *Machine) shape() shape {
	present := m.cpuNumbers()
	s := shape{Version: 1, Machine: m.cfg.Machine, RAM: m.cfg.Memory.Size, CPUs: len(present), MaxCPUs: m.cfg.CPU.Count, PIT: m.pit != nil}
	if !slices.Equal(present, firstCPUs(len(present))) {
		s.Present = present
	}
	for _, p := range m.board.serials {
		s.Serials = append(s.Serials, p.id)
	}
	for _, d := range m.devices.virtio() {
		s.Virtio = append(s.Virtio, d.id+"="+d.transport.Function().Address().String())
	}
	return s
}

func (m *Machine) saveShape() ([]byte, error) { return json.Marshal(m.shape()) }

// restoreShape compares. The message names the first difference, as a user would say it.
func (m *Machine) restoreShape(state []byte) error {
	var was shape
	if err := json.Unmarshal(state, &was); err != nil {
		return err
	}
	is := m.shape()
	differs := func(what string, a, b any) error {
		return fmt.Errorf("the saved machine has %s %v, this one %v", what, a, b)
	}
	switch {
	case was.Version != is.Version:
		return fmt.Errorf("version %d of a machine, this engine knows %d", was.Version, is.Version)
	case was.Machine != is.Machine:
		return differs("the type", was.Machine, is.Machine)
	case was.RAM != is.RAM:
		return differs("bytes of RAM:", was.RAM, is.RAM)
	case was.CPUs != is.CPUs || was.MaxCPUs != is.MaxCPUs:
		return differs("vCPUs (present, possible):", []int{was.CPUs, was.MaxCPUs}, []int{is.CPUs, is.MaxCPUs})
	case !slices.Equal(was.Present, is.Present):
		return differs("vCPUs by number:", was.Present, is.Present)
	case was.PIT != is.PIT:
		return differs("an interval timer:", was.PIT, is.PIT)
	}
	return errors.Join(sameSet("serial port", was.Serials, is.Serials), sameSet("device", was.Virtio, is.Virtio))
}

// sameSet names what only one of two lists has.
func sameSet(what string, was, is []string) error {
	var errs []error
	missing := func(a, b []string, text string) {
		have := map[string]bool{}
		for _, s := range b {
			have[s] = true
		}
		for _, s := range a {
			if !have[s] {
				errs = append(errs, fmt.Errorf("%s %s %s", what, strings.Replace(s, "=", " at ", 1), text))
			}
		}
	}
	missing(was, is, "is in the saved machine and not in this one")
	missing(is, was, "is in this machine and not in the saved one")
	return errors.Join(errs...)
}

func saveJSON[T any](get func() T) func() ([]byte, error) {
	return func() ([]byte, error) { return json.Marshal(get()) }
}

func restoreJSON[T any](set func(T) error) func([]byte) error {
	return func(state []byte) error {
		var v T
		if err := json.Unmarshal(state, &v); err != nil {
			return err
		}
		return set(v)
	}
}
