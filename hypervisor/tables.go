package hypervisor

import (
	"errors"
	"fmt"

	"virtd/hypervisor/acpi"
	"virtd/hypervisor/smbios"
)

// placeTables puts the ACPI tables into guest RAM and returns the address of the root pointer, 0 without ACPI.
func (m *Machine) placeTables() (uint64, error) {
	if m.cfg.CPU.NoACPI {
		return 0, nil
	}
	if m.board.tables == nil {
		t, err := m.buildTables()
		if err != nil {
			return 0, err
		}
		m.board.tables = t
	}
	image, err := m.board.tables.Place(acpiTables, acpiTablesSize)
	if err != nil {
		return 0, fmt.Errorf("ACPI tables: %w", err)
	}
	return acpiTables, m.mem.WriteAt(image, acpiTables)
}

func (m *Machine) buildTables() (*acpi.Tables, error) {
	c := acpi.Config{Board: m.board.kind, Windows: m.layout.windows, PVPanic: m.cfg.PVPanic, LastBus: m.board.root.LastBus(),
		CPUHotplug: m.board.cpus != nil}
	for i := range m.cfg.CPU.Count {
		_, there := m.runner.find(i)
		c.CPUs = append(c.CPUs, acpi.CPU{APICID: m.cpuid.APICID(i), Online: there})
	}
	seen := map[uint8]bool{}
	if m.board.kind == acpi.PC {
		for slot := uint8(acpi.FirstHotplugSlot); slot < 32; slot++ {
			seen[slot] = true
			c.Slots = append(c.Slots, slot)
		}
	}
	for _, p := range m.cfg.RootPorts {
		c.Ports = append(c.Ports, acpi.Port{Index: p.Index, Slot: p.Address.Slot, Function: p.Address.Function})
	}
	for _, f := range m.board.root.Functions() {
		if a := f.Address(); a.Bus == 0 && !seen[a.Slot] {
			seen[a.Slot] = true
			c.Slots = append(c.Slots, a.Slot)
		}
	}
	for _, s := range m.cfg.Serials {
		c.Serials = append(c.Serials, acpi.Serial(s.Port))
	}
	if len(c.CPUs) == 0 {
		return nil, errors.New("no processor")
	}
	return acpi.Build(c), nil
}

// placeSMBIOS tells the guest who it is.
func (m *Machine) placeSMBIOS() error {
	if m.board.smbios == nil {
		t := m.cpuid.Topology()
		image, err := smbios.Build(smbios.Config{UUID: m.cfg.UUID, Product: "virtd", Version: m.cfg.Machine, Sockets: t.Sockets,
			Cores: t.Dies * t.Clusters * t.Cores, Threads: t.Threads, RAM: m.layout.ram})
		if err != nil {
			return fmt.Errorf("SMBIOS tables: %w", err)
		}
		m.board.smbios = image
	}
	return m.mem.WriteAt(m.board.smbios, smbios.Address)
}
