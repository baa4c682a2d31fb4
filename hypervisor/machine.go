package hypervisor

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"virtd/hypervisor/boot"
	"virtd/hypervisor/bus"
	"virtd/hypervisor/confine"
	"virtd/hypervisor/cpuid"
	"virtd/hypervisor/dirtylog"
	"virtd/hypervisor/dirtyrate"
	"virtd/hypervisor/irq"
	"virtd/hypervisor/kvm"
	"virtd/hypervisor/memory"
	"virtd/hypervisor/monitor"
)

// State is what a machine does.
type State string

// States of a machine. Shutdown is final.
const (
	StatePrelaunch State = "prelaunch" // built, no instruction executed yet
	StateRunning   State = "running"
	StatePaused    State = "paused"
	StateCrashed   State = "crashed" // the guest crashed and OnCrash or OnReboot says preserve
	StateShutdown  State = "shutdown"
)

// Machine is one virtual machine. Build it with New, let it go with Start, and wait for Done. All methods are safe for
// concurrent use; those that change the state wait for each other.
type Machine struct {
	cfg  *Config
	host Host

	sys         *kvm.System
	vm          *kvm.VM
	cpuid       *cpuid.Guest
	mem         *memory.Memory
	dirty       *dirtylog.Tracker // maps mem as KVM's slots
	rate        *dirtyrate.Meter  // uses dirty
	reach       []memory.Range    // where the DMA of the devices that it started with reaches; nil is everywhere
	layout      *memoryMap
	irq         *irq.Controller
	portSpace   bus.Space
	memorySpace bus.Space
	clock       machineClock
	runner      runner
	board       board
	devices     devices
	boot        bootFiles
	booted      bool // RAM is no longer all zero
	msrIndices  []uint32
	chips       []*kvm.IRQChip // interrupt controllers after power-on
	unplugged   map[int]*vcpu  // vCPUs that were there, by number: KVM has no way to take one back
	pit         *kvm.PIT

	mu     sync.Mutex // one change of state at a time
	frozen frozenTime // while not running
	held   *heldState // a saved state that is true as long as nothing runs

	job         longJob
	incoming    *os.File // the state to start from, until it is restored
	restoredTSC uint64   // the first vCPU's counter in it

	status statusWord
	events eventQueue
	ejects ejectQueue
	wanted wantedQueue

	resetAtPoweroff atomic.Bool // the guest's power-off is half of a reboot

	done   chan struct{}
	record ExitRecord
	ended  sync.Once
}

// bootFiles are read again at each reset.
type bootFiles struct {
	kernel, initrd *boot.Source
	cmdline        string
}

// New builds the machine of c up to its first instruction. On error everything that was made is released.
func New(c *Config, h Host) (*Machine, error) {
	if c.Version > ConfigVersion || c.Version < 1 {
		return nil, fmt.Errorf("configuration of version %d: this engine executes 1 to %d; update virtd-vmm", c.Version, ConfigVersion)
	}
	if h.Logf == nil {
		h.Logf = func(string, ...any) {}
	}
	if h.Event == nil {
		h.Event = func(monitor.Event) {}
	}
	m := &Machine{cfg: c, host: h, done: make(chan struct{})}
	m.runner.init()
	m.events.init()
	m.ejects.init()
	m.wanted.init()
	m.status.set(StatePrelaunch, "")
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"open KVM", m.openKVM},
		{"processors", m.makeCPUID},
		{"host devices", m.openHostdevs},
		{"guest memory", m.makeMemory},
		{"interrupt controllers", m.makeIRQ},
		{"board", m.makeBoard},
		{"devices", m.makeDevices},
		{"boot", m.openBoot},
		{"saved state", m.openIncoming},
		{"processors", m.makeVCPUs},
	} {
		if err := step.do(); err != nil {
			m.release()
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return m, nil
}

func (m *Machine) openKVM() error {
	fd, err := m.host.take(m.cfg.KVM, "/dev/kvm")
	if err != nil {
		return err
	}
	if m.sys, err = kvm.NewSystem(fd); err != nil {
		return err
	}
	m.vm, err = m.sys.CreateVM()
	return err
}

func (m *Machine) makeMemory() error {
	var err error
	if m.layout, err = newMemoryMap(mapConfig{
		machine: m.cfg.Machine, ram: m.cfg.Memory.Size, physBits: m.cpuid.PhysBits(), reach: m.reach, pciHole64: m.cfg.PCIHole64,
	}); err != nil {
		return err
	}
	if m.mem, err = memory.New(m.cfg.Memory.Backing, m.layout.ram...); err != nil {
		return err
	}
	if m.dirty, err = dirtylog.New(m.vm, m.mem); err != nil {
		return err
	}
	m.rate = dirtyrate.New(m.mem, m.dirty, m.host.Logf)
	return nil
}

func (m *Machine) makeIRQ() error {
	if err := m.vm.SetIdentityMapAddr(identityMapPage); err != nil {
		return err
	}
	if err := m.vm.SetTSSAddr(tssPages); err != nil {
		return err
	}
	if err := m.vm.CreateIRQChip(); err != nil {
		return err
	}
	var err error
	if m.irq, err = irq.New(m.vm, m.host.Logf); err != nil {
		return err
	}
	if m.cfg.Clock.PIT {
		if err := m.vm.CreatePIT2(); err != nil {
			return err
		}
		if m.pit, err = m.vm.PIT(); err != nil {
			return err
		}
	}
	for _, id := range []uint32{kvm.ChipPICMaster, kvm.ChipPICSlave, kvm.ChipIOAPIC} {
		c, err := m.vm.IRQChip(id)
		if err != nil {
			return err
		}
		m.chips = append(m.chips, c)
	}
	return nil
}

func (m *Machine) openBoot() error {
	var err error
	if m.boot.kernel, err = m.host.source(m.cfg.Boot.Kernel, "kernel"); err != nil {
		return err
	}
	if m.boot.kernel == nil {
		return errors.New("no kernel: this engine boots kernels directly, firmware is not there yet")
	}
	m.boot.initrd, err = m.host.source(m.cfg.Boot.Initrd, "initrd")
	m.boot.cmdline = m.cfg.Boot.Cmdline
	return err
}

// Start confines the process, loads the guest, or restores it from Config.Incoming, and lets it run, unless Config.Paused.
// Call it once. A machine that cannot be loaded has ended when Start returns: a client's Resume, which waits for Start, must
// not find one that was never loaded.
func (m *Machine) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(); err != nil {
		err = fmt.Errorf("start the machine: %w", err)
		m.end(ExitError, err.Error())
		return err
	}
	m.board.start()
	m.devices.start()
	m.runner.launch()
	go m.control()
	if m.cfg.Paused {
		m.status.set(StatePaused, "started paused")
		return nil
	}
	m.run()
	m.status.set(StateRunning, "")
	return nil
}

// load brings the machine to its first instruction, or to the one it was saved before. What was saved is read by a process
// that is confined already.
func (m *Machine) load() error {
	if m.incoming == nil {
		if err := m.powerOn(); err != nil {
			return err
		}
		return m.Confine()
	}
	if err := m.Confine(); err != nil {
		return err
	}
	if err := m.restore(); err != nil {
		return fmt.Errorf("restore the saved machine: %w", err)
	}
	return nil
}

// Confine locks the process in as Config says, before the guest's first instruction.
func (m *Machine) Confine() error {
	if !m.cfg.Confine.Seccomp && !m.cfg.Confine.Landlock {
		return nil
	}
	report, err := confine.Apply(confine.Options{Seccomp: m.cfg.Confine.Seccomp, Landlock: m.cfg.Confine.Landlock})
	if err != nil {
		return fmt.Errorf("confine the engine: %w", err)
	}
	for _, missing := range report.Missing {
		m.host.Logf("confinement: the host lacks %s", missing)
	}
	return nil
}

// Done is closed when the machine has ended; Record then says why.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Record returns why the machine ended. Call it after Done.
func (m *Machine) Record() ExitRecord { return m.record }

// release frees everything. No vCPU thread runs any more.
func (m *Machine) release() {
	if m.rate != nil {
		m.rate.Close() // it may read RAM
	}
	if m.held != nil {
		m.held.file.Close()
		m.held = nil
	}
	if m.incoming != nil {
		m.incoming.Close()
	}
	m.devices.close()
	m.closeHostdevs()
	if m.dirty != nil {
		m.dirty.Close()
	}
	m.board.close()
	for _, c := range m.runner.cpus() {
		c.v.Close()
	}
	for _, c := range m.unplugged {
		c.v.Close()
	}
	if m.vm != nil {
		m.vm.Close()
	}
	if m.sys != nil {
		m.sys.Close()
	}
	if m.mem != nil {
		m.mem.Close()
	}
}
