package hypervisor

import (
	"fmt"
	"time"

	"virtd/hypervisor/acpi"
	"virtd/hypervisor/boot"
	"virtd/hypervisor/bus"
	"virtd/hypervisor/chardev"
	"virtd/hypervisor/chipset"
	"virtd/hypervisor/pci"
)

// board is what is soldered on: the chipset, PCI's root and the serial ports.
type board struct {
	kind    acpi.Board
	root    *pci.Root
	hotplug *pci.Hotplug
	cpus    *chipset.CPUHotplug // nil where processors do not come and go
	pm      *chipset.ACPIPM
	rtc     *chipset.RTC
	kbd     *chipset.I8042
	cf9     *chipset.CF9
	port92  *chipset.Port92
	post    chipset.PostCode
	speaker chipset.Speaker
	apm     chipset.APM
	config  *pci.ConfigPorts
	serials []serial
	tables  *acpi.Tables // nil before they are needed, and after vCPUs came or went
	smbios  []byte
}

type serial struct {
	id   string
	uart *chipset.UART
	port *chardev.Port
}

func (m *Machine) makeBoard() error {
	b := &m.board
	b.kind = acpi.PC
	if m.layout.q35 {
		b.kind = acpi.Q35
	}
	resetBy := func(how string) func() { return func() { m.guestEvent(eventReset, how) } }
	gpe, gpeSize := b.kind.GPE0()
	b.pm = chipset.NewACPIPM(chipset.ACPIPMConfig{GPE0: uint64(gpe), GPE0Size: uint64(gpeSize), S5: b.kind.SleepTypeS5()},
		&m.clock, m.irq.Line(chipset.SCI), func() { m.guestEvent(eventPowerOff, "ACPI S5") })
	b.rtc = chipset.NewRTC(m.irq.Line(chipset.RTCIRQ), time.Duration(m.cfg.Clock.RTCOffset)*time.Second, time.Now)
	b.kbd = chipset.NewI8042(m.irq.Line(chipset.I8042IRQ), resetBy("keyboard controller"))
	b.cf9 = chipset.NewCF9(resetBy("reset control register"))
	b.port92 = chipset.NewPort92(resetBy("port 92"))
	if err := m.makeRoot(); err != nil {
		return err
	}
	b.config = pci.NewConfigPorts(b.root, b.cf9)
	claims := []struct {
		port, size uint64
		dev        bus.Device
	}{
		{chipset.RTCPort, chipset.RTCPorts, b.rtc},
		{chipset.I8042DataPort, 1, b.kbd.Data()},
		{chipset.I8042CommandPort, 1, b.kbd.Command()},
		{chipset.Port92Address, 1, b.port92},
		{chipset.DelayPort, 1, &b.post},
		{chipset.SpeakerPort, 1, &b.speaker}, // KVM answers first when it has the timer
		{chipset.APMPort, chipset.APMPorts, &b.apm},
		{pci.ConfigPortsBase, pci.ConfigPortsSize, b.config},
		{pci.HotplugPort, pci.HotplugPorts, b.hotplug},
	}
	for _, c := range claims {
		if err := m.portSpace.Add(c.port, c.size, c.dev); err != nil {
			return err
		}
	}
	if m.cfg.PVPanic {
		if err := m.portSpace.Add(chipset.PVPanicPort, 1, chipset.NewPVPanic(m.pvpanic)); err != nil {
			return err
		}
	}
	if err := m.makeCPUHotplug(); err != nil {
		return err
	}
	return m.makeSerials()
}

func (m *Machine) makeRoot() error {
	rc := pci.RootConfig{Memory: &m.memorySpace, Ports: &m.portSpace, Reserved: m.layout.reserved(), Logf: m.host.Logf}
	if m.layout.q35 {
		q, err := pci.NewQ35(pci.Q35Config{RootConfig: rc, Controller: m.irq, PM: m.board.pm})
		if err != nil {
			return err
		}
		m.board.root = q.Root
	} else {
		i, err := pci.NewI440FX(pci.I440FXConfig{RootConfig: rc, Controller: m.irq, PM: m.board.pm})
		if err != nil {
			return err
		}
		m.board.root = i.Root
	}
	for _, p := range m.cfg.RootPorts {
		if !m.layout.q35 {
			return fmt.Errorf("root port %s: the pc board has no PCI Express", p.ID)
		}
		if err := m.board.root.AddRootPort(pciAddress(p.Address), pci.RootPortConfig{Index: p.Index, Chassis: p.Chassis, Port: p.Port, Memory: p.Memory}); err != nil {
			return fmt.Errorf("root port %s: %w", p.ID, err)
		}
	}
	m.makeHotplug()
	return nil
}

func pciAddress(a PCIAddress) pci.Address {
	return pci.Address{Bus: a.Bus, Slot: a.Slot, Function: a.Function}
}

func (m *Machine) makeSerials() error {
	for _, s := range m.cfg.Serials {
		if s.Port < 0 || s.Port >= len(chipset.COMPorts) {
			return fmt.Errorf("serial %s: port %d, a PC has 0 to %d", s.ID, s.Port, len(chipset.COMPorts)-1)
		}
		port, err := m.host.chardev(s.Chardev, "serial "+s.ID)
		if err != nil {
			return err
		}
		u := chipset.NewUART(m.irq.Line(chipset.COMIRQs[s.Port]), port)
		m.board.serials = append(m.board.serials, serial{s.ID, u, port})
		if err := m.portSpace.Add(uint64(chipset.COMPorts[s.Port]), chipset.UARTPorts, u); err != nil {
			return fmt.Errorf("serial %s: %w", s.ID, err)
		}
	}
	return nil
}

// chardev makes the host side that c describes.
func (h *Host) chardev(c Chardev, what string) (*chardev.Port, error) {
	cfg := chardev.Config{Type: c.Type, FD: -1, Listener: c.Server, LogMax: c.LogMax}
	var err error
	if c.Type != chardev.Null {
		if cfg.FD, err = h.take(c.File, what); err != nil {
			return nil, err
		}
	}
	if cfg.Logs, err = h.takeAll(c.Log, what+" log"); err != nil {
		return nil, err
	}
	p, err := chardev.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return p, nil
}

// start connects the serial ports to the world.
func (b *board) start() {
	for _, s := range b.serials {
		s.port.Start(s.uart)
	}
}

// reset is the board's reset line.
func (b *board) reset() {
	b.root.Reset()
	b.hotplug.Reset()
	if b.cpus != nil {
		b.cpus.Reset()
	}
	b.pm.Reset()
	b.rtc.Reset()
	b.kbd.Reset()
	b.cf9.Reset()
	b.port92.Reset()
	for _, s := range b.serials {
		s.uart.Reset()
	}
}

func (b *board) close() {
	if b.pm != nil {
		b.pm.Close()
	}
	if b.rtc != nil {
		b.rtc.Close()
	}
	for _, s := range b.serials {
		s.port.Close()
	}
}

// powerOn does what firmware would: assigns PCI resources, places the ACPI tables, loads the kernel and sets the vCPUs
// to their start. The vCPUs are stopped.
func (m *Machine) powerOn() error {
	if err := m.board.root.Assign(m.layout.windows); err != nil {
		return fmt.Errorf("assign PCI resources: %w", err)
	}
	rsdp, err := m.placeTables()
	if err != nil {
		return err
	}
	if err := m.placeSMBIOS(); err != nil {
		return err
	}
	loaded, err := boot.Load(boot.Params{Memory: m.mem, Kernel: m.boot.kernel, Initrd: m.boot.initrd, Cmdline: m.boot.cmdline,
		Map: m.layout.entries(), RSDP: rsdp, Zeroed: !m.booted})
	if err != nil {
		return err
	}
	m.booted = true
	return m.resetVCPUs(&loaded.VCPU)
}
