package vfio

import (
	"encoding/binary"
	"errors"

	"virtd/hypervisor/interrupt"
)

// Message control of MSI (PCI 3.0, 6.8.1.3).
const (
	msiEnable   = 1 << 0
	msiWide     = 1 << 7 // 64-bit address
	msiMaskable = 1 << 8
	msiMultiple = 7 << 4 // vectors that the guest takes, log2
	busMaster   = 1 << 2
)

// msi is the MSI capability of a device without MSI-X. Its interrupts are made when the guest switches it on.
type msi struct {
	f          *Function
	at, size   int
	wide, mask bool
	most       int // vectors
	controller interrupt.Controller
	vectors    []interrupt.MSI
	on         int // vectors that signal now
}

// newMSI makes the capability at offset at behave; nil when it does not fit.
func newMSI(f *Function, at int, config []byte, most int, c interrupt.Controller) *msi {
	control := binary.LittleEndian.Uint16(config[at+2:])
	m := &msi{f: f, at: at, size: 10, wide: control&msiWide != 0, mask: control&msiMaskable != 0, most: most, controller: c}
	if m.wide {
		m.size += 4
	}
	if m.mask {
		m.size += 10
	}
	if at+m.size > conventional {
		return nil
	}
	f.pci.Writable(at+2, msiEnable|msiMultiple)
	f.pci.Writable(at+4, 0xfc, 0xff, 0xff, 0xff)
	data := m.dataAt()
	if m.wide {
		f.pci.Writable(at+8, 0xff, 0xff, 0xff, 0xff)
	}
	f.pci.Writable(data, 0xff, 0xff)
	if m.mask {
		f.pci.Writable(data+4, 0xff, 0xff, 0xff, 0xff)
	}
	return m
}

func (m *msi) dataAt() int {
	if m.wide {
		return m.at + 12
	}
	return m.at + 8
}

// changed brings the interrupts in step with the registers.
func (m *msi) changed() {
	p := m.f.pci
	control := p.Uint16(m.at + 2)
	n := 0
	if control&msiEnable != 0 && p.Uint16(regCommand)&busMaster != 0 {
		n = min(1<<(control&msiMultiple>>4), m.most)
	}
	if n != m.on {
		if err := m.signal(n); err != nil {
			m.f.logf("%s: %v", m.f.name, err)
			return
		}
	}
	address, data, mask := uint64(p.Uint32(m.at+4)), uint32(p.Uint16(m.dataAt())), uint32(0)
	if m.wide {
		address |= uint64(p.Uint32(m.at+8)) << 32
	}
	if m.mask {
		mask = p.Uint32(m.dataAt() + 4)
	}
	for i, v := range m.vectors {
		err := v.Mask()
		if i < n && mask>>i&1 == 0 {
			err = v.Configure(address, data|uint32(i))
			if err == nil {
				err = v.Unmask()
			}
		}
		if err != nil {
			m.f.logf("%s: MSI vector %d: %v", m.f.name, i, err)
		}
	}
}

// signal lets n vectors of the device signal; 0 is none.
func (m *msi) signal(n int) error {
	for len(m.vectors) < n {
		v, err := m.controller.NewMSI()
		if err != nil {
			return err
		}
		m.vectors = append(m.vectors, v)
	}
	fds := make([]int, 0, n)
	for _, v := range m.vectors[:n] {
		fds = append(fds, v.FD())
	}
	if m.on > 0 && n > 0 {
		if err := m.f.dev.SetInterrupts(false, nil); err != nil {
			return err
		}
		m.on = 0
	}
	if n > 0 {
		m.f.intx.set(false)
	}
	if err := m.f.dev.SetInterrupts(false, fds); err != nil {
		return err
	}
	m.on = n
	return nil
}

func (m *msi) close() error {
	var errs []error
	if m.on > 0 {
		errs = append(errs, m.f.dev.SetInterrupts(false, nil))
	}
	for _, v := range m.vectors {
		errs = append(errs, v.Close())
	}
	return errors.Join(errs...)
}
