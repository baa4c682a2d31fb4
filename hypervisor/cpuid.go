package hypervisor

import "virtd/hypervisor/kvm"

// physBits returns the guest's physical address bits.
func (m *Machine) physBits() (int, error) {
	if m.cfg.CPU.PhysBits != 0 {
		return m.cfg.CPU.PhysBits, nil
	}
	entries, err := m.sys.SupportedCPUID()
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if e.Function == 0x80000008 {
			return int(e.EAX & 0xff), nil
		}
	}
	return 36, nil
}

func (m *Machine) apicID(i int) (int, error) { return i, nil }

// guestCPUID is what the host supports, for host-passthrough.
func (m *Machine) guestCPUID(i int) ([]kvm.CPUIDEntry, error) {
	entries, err := m.sys.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	for n := range entries {
		switch e := &entries[n]; e.Function {
		case 1:
			e.ECX |= 1 << 31
			e.EBX = e.EBX&0xffff | uint32(i)<<24 | 1<<16
		case 0xb, 0x1f:
			e.EDX = uint32(i)
		}
	}
	return entries, nil
}
