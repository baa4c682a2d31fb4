package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// instance is the connection of one manager to an Engine.
type instance struct {
	e *Engine

	mu      sync.Mutex // held while the handler runs: events are handled one at a time
	handler func(driver.Event)
	early   []driver.Event
	closed  bool
}

func (i *instance) deliver(ev driver.Event) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.closed:
	case i.handler == nil:
		i.early = append(i.early, ev)
	default:
		i.handler(ev)
	}
}

// Listen implements driver.Instance.
func (i *instance) Listen(handler func(driver.Event)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handler = handler
	for _, ev := range i.early {
		handler(ev)
	}
	i.early = nil
}

// Close implements driver.Instance.
func (i *instance) Close() {
	i.e.mu.Lock()
	if i.e.client == i {
		i.e.client = nil
	}
	i.e.mu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
}

// ask is the common start of every question.
func (i *instance) ask(ctx context.Context, method string) error {
	if i.e.ended() != nil {
		return virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	if f := i.e.d.OnCall; f != nil {
		if err := f(ctx, i.e, method); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (i *instance) Record() json.RawMessage {
	rec, _ := json.Marshal(record{i.e.key}) // a string always marshals
	return rec
}

func (i *instance) Runtime() domain.Runtime {
	r := domain.Runtime{Taps: map[string]string{}, NetDrivers: map[string]string{}, TTYs: map[string]string{}}
	devices := i.e.definition().View().Devices
	for n, nic := range devices.Interfaces {
		r.Taps[nic.Alias.Name] = fmt.Sprintf("vnet%d", i.e.Live.ID()*10+n)
		r.NetDrivers[nic.Alias.Name] = "qemu"
	}
	for n, s := range devices.Serials {
		r.TTYs[s.Alias.Name] = fmt.Sprintf("/dev/pts/%d", i.e.Live.ID()*10+n)
	}
	return r
}

func (i *instance) PID() int           { return 0 }
func (i *instance) Warnings() []string { return nil }

func (i *instance) Status(ctx context.Context) (driver.Status, error) {
	if err := i.ask(ctx, "Status"); err != nil {
		return driver.Status{}, err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	return driver.Status{State: i.e.state}, nil
}

func (i *instance) Cont(ctx context.Context) error {
	return i.change(ctx, "Cont", driver.MachineRunning, driver.Resumed{})
}

func (i *instance) Stop(ctx context.Context) error {
	return i.change(ctx, "Stop", driver.MachinePaused, driver.Stopped{})
}

func (i *instance) change(ctx context.Context, method string, to driver.MachineState, ev driver.Event) error {
	if err := i.ask(ctx, method); err != nil {
		return err
	}
	i.e.mu.Lock()
	same := i.e.state == to
	i.e.state = to
	i.e.mu.Unlock()
	if !same {
		i.e.Emit(ev)
	}
	return nil
}

func (i *instance) Powerdown(ctx context.Context) error {
	if err := i.ask(ctx, "Powerdown"); err != nil {
		return err
	}
	i.e.mu.Lock()
	i.e.presses++
	i.e.mu.Unlock()
	i.e.Emit(driver.Powerdown{})
	return nil
}

func (i *instance) Reset(ctx context.Context) error {
	if err := i.ask(ctx, "Reset"); err != nil {
		return err
	}
	i.e.Emit(driver.Reset{})
	return nil
}

func (i *instance) SetPoweroffAction(ctx context.Context, reset bool) error {
	if err := i.ask(ctx, "SetPoweroffAction"); err != nil {
		return err
	}
	if i.e.d.NoPoweroffAction {
		return virterr.New(virterr.OperationUnsupported, "set-action")
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.onOff = reset
	return nil
}

func (i *instance) Quit(ctx context.Context) error {
	if err := i.ask(ctx, "Quit"); err != nil {
		return err
	}
	i.e.Emit(driver.Shutdown{Reason: "host-qmp-quit"})
	i.e.Exit(driver.ExitQuit, "")
	return nil
}

func (i *instance) Kill() error {
	i.e.Exit(driver.ExitKilled, "")
	return nil
}

func (i *instance) SetBalloon(ctx context.Context, bytes uint64) error {
	if err := i.ask(ctx, "SetBalloon"); err != nil {
		return err
	}
	i.e.mu.Lock()
	frozen := i.e.frozen
	if !frozen {
		i.e.actual = bytes
	}
	i.e.mu.Unlock()
	if !frozen {
		i.e.Emit(driver.BalloonChanged{Actual: bytes})
	}
	return nil
}

func (i *instance) MemoryStats(ctx context.Context) (driver.MemoryStats, error) {
	if err := i.ask(ctx, "MemoryStats"); err != nil {
		return driver.MemoryStats{}, err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	s := driver.MemoryStats{Actual: i.e.actual, RSS: 32 << 20, Guest: map[driver.MemoryStat]uint64{}}
	for k, v := range i.e.guest {
		s.Guest[k] = v
		s.LastUpdate = time.Unix(1700000000, 0)
	}
	return s, nil
}

func (i *instance) SetStatsPeriod(ctx context.Context, seconds int) error {
	if err := i.ask(ctx, "SetStatsPeriod"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.period = seconds
	return nil
}

// Attach gives the machine what it asks for at once.
func (i *instance) Attach(ctx context.Context, req driver.AttachRequest) error {
	if err := i.ask(ctx, "Attach"); err != nil {
		return err
	}
	before := i.e.definition()
	i.e.setDefinition(req.Live)
	given := domain.Runtime{Taps: map[string]string{}, NetDrivers: map[string]string{}}
	if tap, ok := i.Runtime().Taps[req.Alias]; ok {
		given.Taps[req.Alias], given.NetDrivers[req.Alias] = tap, "qemu"
	}
	err := req.Record(i.Record(), given)
	if err == nil {
		err = i.ask(ctx, "Attached")
	}
	if err != nil {
		i.e.setDefinition(before)
	}
	return err
}

// Detach lets the device go at once, unless the guest clings to it.
func (i *instance) Detach(ctx context.Context, alias string) error {
	if err := i.ask(ctx, "Detach"); err != nil {
		return err
	}
	i.e.mu.Lock()
	clings, refuses := i.e.clings, i.e.refuses
	i.e.mu.Unlock()
	switch {
	case refuses:
		i.e.Emit(driver.DeviceKept{Alias: alias})
	case !clings:
		i.e.Yield(alias)
	}
	return nil
}

func (i *instance) ResizeDisk(ctx context.Context, alias string, bytes uint64) error {
	if err := i.ask(ctx, "ResizeDisk"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.sizes[alias] = bytes
	return nil
}

func (i *instance) SendKey(ctx context.Context, keys []uint16, hold time.Duration) error {
	if err := i.ask(ctx, "SendKey"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.typed = append(i.e.typed, fmt.Sprint(keys, " for ", hold))
	return nil
}

func (i *instance) SetIOTune(ctx context.Context, alias string, t domain.IOTune) error {
	if err := i.ask(ctx, "SetIOTune"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.tunes[alias] = t
	return nil
}

func (i *instance) UpdateInterface(ctx context.Context, alias string, next *domain.Definition) error {
	if err := i.ask(ctx, "UpdateInterface"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.nics[alias] = next
	return nil
}

func (i *instance) SetLink(ctx context.Context, alias string, up bool) error {
	if err := i.ask(ctx, "SetLink"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.links[alias] = up
	return nil
}

func (i *instance) InjectNMI(ctx context.Context) error {
	if err := i.ask(ctx, "InjectNMI"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.nmis++
	return nil
}

func (i *instance) BlockStats(ctx context.Context) (map[string]driver.BlockStats, error) {
	if err := i.ask(ctx, "BlockStats"); err != nil {
		return nil, err
	}
	all := map[string]driver.BlockStats{}
	for n, disk := range i.e.definition().View().Devices.Disks {
		all[disk.Alias.Name] = driver.BlockStats{ReadOps: uint64(n + 1), ReadBytes: 4096, WriteOps: 2, WriteBytes: 8192, Capacity: 1 << 20}
	}
	return all, nil
}

func (i *instance) NetStats(ctx context.Context) (map[string]driver.NetStats, error) {
	if err := i.ask(ctx, "NetStats"); err != nil {
		return nil, err
	}
	all := map[string]driver.NetStats{}
	for _, nic := range i.e.definition().View().Devices.Interfaces {
		all[nic.Alias.Name] = driver.NetStats{RxBytes: 100, RxPackets: 1, TxBytes: 200, TxPackets: 2}
	}
	return all, nil
}

func (i *instance) CPUTime() (driver.CPUTime, error) {
	if i.e.ended() != nil {
		return driver.CPUTime{}, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	return driver.CPUTime{Total: 3 * time.Second, User: 2 * time.Second, System: time.Second}, nil
}

func (i *instance) VCPUs(ctx context.Context) ([]driver.VCPU, error) {
	if err := i.ask(ctx, "VCPUs"); err != nil {
		return nil, err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	var list []driver.VCPU
	for _, n := range i.e.live.OnlineVCPUs() {
		v := driver.VCPU{Number: n, Thread: 1000 + n, Time: time.Second, Affinity: []byte{3}}
		if pin, ok := i.e.pins[n]; ok {
			v.Affinity = pin
		}
		list = append(list, v)
	}
	return list, nil
}

// PlugVCPU gives the machine what it asks for at once.
func (i *instance) PlugVCPU(ctx context.Context, live *domain.Definition, vcpu int) error {
	if err := i.ask(ctx, "PlugVCPU"); err != nil {
		return err
	}
	if has := i.e.definition(); slices.Contains(has.OnlineVCPUs(), vcpu) {
		return virterr.New(virterr.OperationFailed, "plug vCPU %d: it is there already", vcpu)
	}
	i.e.setDefinition(live)
	return i.ask(ctx, "PluggedVCPU")
}

// UnplugVCPU lets the vCPU go at once, unless the guest clings to it.
func (i *instance) UnplugVCPU(ctx context.Context, vcpu int) error {
	if err := i.ask(ctx, "UnplugVCPU"); err != nil {
		return err
	}
	i.e.mu.Lock()
	clings, refuses := i.e.clings, i.e.refuses
	i.e.mu.Unlock()
	switch {
	case refuses:
		i.e.Emit(driver.VCPUKept{VCPU: vcpu})
	case !clings:
		i.e.YieldVCPU(vcpu)
	}
	return nil
}

func (i *instance) PinVCPU(ctx context.Context, vcpu int, cpus []byte) error {
	if err := i.ask(ctx, "PinVCPU"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.e.pins[vcpu] = cpus
	return nil
}

// PinEmulator implements driver.Instance. Engine.Pin has it as vCPU -1.
func (i *instance) PinEmulator(ctx context.Context, cpus []byte) error {
	return i.PinVCPU(ctx, -1, cpus)
}

// Monitor echoes, so that a test sees what arrived.
func (i *instance) Monitor(ctx context.Context, command string, hmp bool) (string, error) {
	if err := i.ask(ctx, "Monitor"); err != nil {
		return "", err
	}
	if hmp {
		return "hmp: " + command + "\r\n", nil
	}
	return `{"return":{},"id":"fake"}`, nil
}

// OpenConsole connects to a guest that echoes what is typed.
func (i *instance) OpenConsole(alias string) (io.ReadWriteCloser, error) {
	if i.e.ended() != nil {
		return nil, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	host, guest := net.Pipe()
	go func() {
		defer guest.Close()
		_, _ = io.Copy(guest, guest) // ends when the host side closes
	}()
	return host, nil
}
