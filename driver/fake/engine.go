package fake

import (
	"fmt"
	"slices"
	"sync"

	"libvirt.org/go/libvirtxml"

	"virtd/domain"
	"virtd/driver"
)

// Engine is one machine in memory. All methods are safe for concurrent use.
type Engine struct {
	Live *domain.Definition // what it was started with
	d    *Driver
	key  string

	mu      sync.Mutex
	state   driver.MachineState
	actual  uint64 // bytes
	frozen  bool   // the guest does not answer its balloon
	period  int
	pins    map[int][]byte
	sizes   map[string]uint64             // of resized disks, by alias
	links   map[string]bool               // as last set, by alias
	nics    map[string]*domain.Definition // that interfaces were made as last, by alias
	tunes   map[string]domain.IOTune      // as last set, by alias
	typed   []string                      // keys, and how long they were held
	rate    driver.DirtyRate
	nmis    int
	live    *domain.Definition // as devices came and went
	clings  bool               // the guest does not let go of devices
	refuses bool               // ... and says so
	guest   map[driver.MemoryStat]uint64
	onOff   bool // the next power-off resets
	exit    *driver.Exit
	client  *instance // who gets the events
	presses int
}

func newEngine(d *Driver, key string, live *domain.Definition) *Engine {
	return &Engine{
		Live: live, live: live, d: d, key: key, state: driver.MachinePaused, actual: live.CurrentMemory() * 1024,
		pins: map[int][]byte{}, sizes: map[string]uint64{}, links: map[string]bool{}, nics: map[string]*domain.Definition{},
		tunes: map[string]domain.IOTune{}, guest: map[driver.MemoryStat]uint64{},
		rate: driver.DirtyRate{Status: driver.DirtyRateUnstarted, Mode: driver.DirtyRateSampling},
	}
}

// connect makes the engine's one client.
func (e *Engine) connect() *instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.client = &instance{e: e}
	return e.client
}

func (e *Engine) ended() *driver.Exit {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.exit
}

// Link returns what the guest was told last about the cable of the interface with that alias, and whether it was.
func (e *Engine) Link(alias string) (up, told bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	up, told = e.links[alias]
	return up, told
}

// Pin returns the host CPUs that a vCPU was bound to last, or all other threads where vcpu is -1.
func (e *Engine) Pin(vcpu int) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pins[vcpu]
}

// Interface returns what the host's end of the interface with that alias was made last, nil if it never changed.
func (e *Engine) Interface(alias string) *libvirtxml.DomainInterface {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nics[alias] == nil {
		return nil
	}
	list := e.nics[alias].View().Devices.Interfaces
	for i := range list {
		if list[i].Alias != nil && list[i].Alias.Name == alias {
			return &list[i]
		}
	}
	return nil
}

// DiskSize returns the size that the disk with that alias was given, 0 for none.
func (e *Engine) DiskSize(alias string) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sizes[alias]
}

// IOTune returns the limits that the disk with that alias was given, and whether it was.
func (e *Engine) IOTune(alias string) (t domain.IOTune, told bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, told = e.tunes[alias]
	return t, told
}

// Typed returns what was typed, by stroke: the keys and how long they were held.
func (e *Engine) Typed() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.typed)
}

// NMIs returns how many non-maskable interrupts the guest got.
func (e *Engine) NMIs() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.nmis
}

// Cling makes the guest keep its devices from now on; with refuse it says that it does.
func (e *Engine) Cling(refuse bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clings, e.refuses = true, refuse
}

// Yield lets a device go, as a guest does that was asked before, or ejects by itself.
func (e *Engine) Yield(alias string) {
	e.mu.Lock()
	if without, err := e.live.RemoveAlias(alias); err == nil {
		e.live = without
	}
	e.mu.Unlock()
	e.Emit(driver.DeviceRemoved{Alias: alias})
}

// YieldVCPU is Yield for a vCPU.
func (e *Engine) YieldVCPU(vcpu int) {
	e.mu.Lock()
	if without, err := e.live.UnplugVCPU(vcpu); err == nil {
		e.live = without
	}
	e.mu.Unlock()
	e.Emit(driver.VCPURemoved{VCPU: vcpu})
}

// definition returns what the machine has now.
func (e *Engine) definition() *domain.Definition {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.live
}

func (e *Engine) setDefinition(live *domain.Definition) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live = live
}

// Emit reports an event to whoever is connected, and returns when it was handled.
func (e *Engine) Emit(ev driver.Event) {
	e.mu.Lock()
	c := e.client
	e.mu.Unlock()
	if c != nil {
		c.deliver(ev)
	}
}

// Exit ends the engine. Without a client the next Adopt learns of it.
func (e *Engine) Exit(reason driver.ExitReason, detail string) {
	e.mu.Lock()
	if e.exit != nil {
		e.mu.Unlock()
		return
	}
	e.exit = &driver.Exit{Reason: reason, Detail: detail}
	exit, c := *e.exit, e.client
	e.mu.Unlock()
	if c != nil {
		e.d.remove(e)
		c.deliver(driver.Exited{Exit: exit})
	}
}

// GuestPoweroff does what a guest's power-off does.
func (e *Engine) GuestPoweroff() {
	e.Emit(driver.Shutdown{Guest: true, Reason: "guest-shutdown"})
	e.mu.Lock()
	reset := e.onOff
	e.mu.Unlock()
	if reset {
		e.Emit(driver.Reset{Guest: true})
		return
	}
	e.Exit(driver.ExitShutdown, "")
}

// GuestReset does what a guest's reset does when the action is to restart.
func (e *Engine) GuestReset() { e.Emit(driver.Reset{Guest: true}) }

// GuestPanic does what a guest's panic does under the domain's on_crash.
func (e *Engine) GuestPanic() {
	switch e.Live.View().OnCrash {
	case "preserve":
		e.setState(driver.MachineCrashed)
		e.Emit(driver.Panicked{Action: "pause"})
	case "restart":
		e.Emit(driver.Panicked{Action: "run"})
		e.Emit(driver.Reset{})
	default:
		e.Emit(driver.Panicked{Action: "poweroff"})
		e.Exit(driver.ExitPanic, "guest panic")
	}
}

// SetGuestStats sets what the guest's balloon driver tells, in bytes.
func (e *Engine) SetGuestStats(stats map[driver.MemoryStat]uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.guest = stats
}

// FreezeBalloon makes the guest ignore its balloon from now on, as one without a driver does.
func (e *Engine) FreezeBalloon() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frozen = true
}

// PowerPresses returns how often the power button was pressed.
func (e *Engine) PowerPresses() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.presses
}

func (e *Engine) setState(s driver.MachineState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = s
}

// String names the engine.
func (e *Engine) String() string { return fmt.Sprintf("%s (%s)", e.key, e.Live.Name()) }
