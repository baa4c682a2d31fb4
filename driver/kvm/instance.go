package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/kvm/qmp"
	"virtd/driver/kvm/supervise"
	"virtd/virterr"
)

// instance is one running engine. It implements driver.Instance.
type instance struct {
	d    *Driver
	name string
	proc *supervise.Process

	recMu sync.Mutex // guards live, and of rec what devices come and go with: Images, Taps, Sockets, Runtime and Functions
	live  *domain.Definition
	rec   record

	releases sync.WaitGroup // functions on their way back to the host

	filterMu   sync.Mutex     // one receive filter is applied at a time
	background sync.WaitGroup // what follows an event and must not hold the monitor up
	rejoining  sync.Map       // aliases of devices for which a process is looked for

	attachMu sync.Mutex // one device comes at a time, and none while it is looked which are there

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	killed  atomic.Bool // Kill was called
	leaving atomic.Bool // Quit was called

	late sync.WaitGroup // waits for answers that did not come in time; ends with ctx

	restoring bool          // the engine begins with a saved state
	ended     chan struct{} // closed when nothing of the instance runs any more

	mu     sync.Mutex
	client *qmp.Client // nil while there is no connection

	evMu    sync.Mutex // held while the handler runs, so that events are handled one at a time
	handler func(driver.Event)
	early   []driver.Event
	closed  bool

	nonsense sync.Once // logged
}

// maxEarly bounds the events kept before Listen. The guest does not run then.
const maxEarly = 1000

func newInstance(d *Driver, name string, live *domain.Definition, rec record, proc *supervise.Process) *instance {
	i := &instance{d: d, name: name, live: live, rec: rec, proc: proc, ended: make(chan struct{})}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	return i
}

// connectFirst opens the monitor of an engine that was just started and gives its threads to the CPUs they belong to. It
// fails when the engine ends instead.
func (i *instance) connectFirst(ctx context.Context) error {
	limit := time.Minute
	if i.restoring {
		limit = restoreTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-i.proc.Done():
			cancel()
		case <-stop:
		}
	}()
	if err := i.connect(ctx); err != nil {
		return err
	}
	if i.restoring {
		if err := i.waitRestored(ctx); err != nil {
			return err
		}
	}
	if err := i.pinConfigured(ctx, func(int) bool { return true }); err != nil {
		return err
	}
	if err := i.pinEmulatorConfigured(ctx, i.definition()); err != nil {
		return err
	}
	i.syncBackends(ctx)
	i.d.show(i)
	if i.restoring {
		i.syncRxFilters()
	}
	go i.watch()
	return nil
}

// discard frees an instance that was never handed out. The process is the starter's to end.
func (i *instance) discard() {
	i.cancel()
	if c := i.setClient(nil); c != nil {
		c.Close()
	}
	i.d.forget(i.name, &i.rec)
}

func (i *instance) setClient(c *qmp.Client) (old *qmp.Client) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old, i.client = i.client, c
	return old
}

// connect opens the monitor.
func (i *instance) connect(ctx context.Context) error {
	c, err := qmp.Dial(ctx, filepath.Join(i.rec.Dir, monitorSocket), i.event)
	if err != nil {
		return virterr.New(virterr.InternalError, "domain '%s': %w", i.name, err)
	}
	i.setClient(c)
	return nil
}

// watch follows the engine to its end, or until Close: it reopens a lost monitor and reports the exit.
func (i *instance) watch() {
	defer close(i.ended)
	for retry := firstRetry; ; retry = min(2*retry, 5*time.Second) {
		i.mu.Lock()
		c := i.client
		i.mu.Unlock()
		var lost <-chan struct{} // nil while there is no connection
		if c != nil {
			lost = c.Done()
			retry = firstRetry
		}
		select {
		case <-i.ctx.Done():
			return
		case <-i.proc.Done():
			i.finish()
			return
		case <-lost:
			i.setClient(nil)
			i.pause(retry)
		case <-after(c == nil, retry):
		}
		if c == nil {
			i.reconnect()
		}
	}
}

// firstRetry is how long a monitor stays lost before it is opened again: mostly it is lost because the engine ends.
const firstRetry = 500 * time.Millisecond

// after is time.After where wanted, else never.
func after(wanted bool, d time.Duration) <-chan time.Time {
	if !wanted {
		return nil
	}
	return time.After(d)
}

// pause waits, or less when there is news.
func (i *instance) pause(d time.Duration) {
	select {
	case <-i.proc.Done():
	case <-i.ctx.Done():
	case <-time.After(d):
	}
}

// reconnect opens the monitor again and catches up with what happened meanwhile.
func (i *instance) reconnect() {
	ctx, cancel := context.WithTimeout(i.ctx, 10*time.Second)
	defer cancel()
	if err := i.connect(ctx); err != nil {
		i.d.log.Warn("cannot reach the engine of a domain", "domain", i.name, "pid", i.rec.PID, "err", err)
		return
	}
	i.reconcile(ctx)
	i.syncBackends(ctx)
	status, err := i.Status(ctx)
	if err != nil {
		return
	}
	switch status.State {
	case driver.MachineRunning:
		i.deliver(driver.Resumed{})
	case driver.MachinePaused:
		i.deliver(driver.Stopped{Reason: status.Reason})
	}
}

// finish reports the end of the engine and removes its traces.
func (i *instance) finish() {
	if c := i.setClient(nil); c != nil {
		select {
		case <-c.Done(): // the last events come before the end of the stream
		case <-time.After(2 * time.Second):
			c.Close()
		}
	}
	i.d.hide(i)
	status := i.proc.ExitStatus()
	exit := i.rec.exit(status)
	if exit.Reason == driver.ExitCrashed && i.killed.Load() && (status == "" || status == "signal: killed") {
		exit = driver.Exit{Reason: driver.ExitKilled}
	}
	i.proc.Release()
	i.releases.Wait()
	i.recMu.Lock()
	i.d.forget(i.name, &i.rec)
	taps := i.rec.Taps
	i.recMu.Unlock()
	i.d.releaseTaps(taps)
	i.d.endSteering(i.definition(), taps)
	i.d.releaseHostdevs(i.name, &i.rec)
	if err := i.d.clean(&i.rec); err != nil {
		i.d.log.Error("cannot clean up after an engine", "domain", i.name, "err", err)
	}
	i.deliver(driver.Exited{Exit: exit})
}

// Listen implements driver.Instance.
func (i *instance) Listen(handler func(driver.Event)) {
	i.evMu.Lock()
	defer i.evMu.Unlock()
	i.handler = handler
	early := i.early
	i.early = nil
	for _, e := range early {
		handler(e)
	}
}

func (i *instance) deliver(e driver.Event) {
	i.evMu.Lock()
	defer i.evMu.Unlock()
	switch {
	case i.closed:
	case i.handler != nil:
		i.handler(e)
	case len(i.early) < maxEarly:
		i.early = append(i.early, e)
	}
}

// Close implements driver.Instance.
func (i *instance) Close() {
	i.evMu.Lock()
	i.closed = true
	i.evMu.Unlock()
	i.cancel()
	i.late.Wait()
	<-i.ended
	i.d.hide(i)
	i.background.Wait()
	i.releases.Wait()
	if c := i.setClient(nil); c != nil {
		c.Close()
	}
	i.proc.Release()
}

// event translates an event of the monitor. Unknown ones pass as MonitorEvent alone.
func (i *instance) event(e qmp.Event) {
	var data struct {
		Guest     bool   `json:"guest"`
		Reason    string `json:"reason"`
		Action    string `json:"action"`
		Actual    uint64 `json:"actual"`
		Device    string `json:"device"`
		Name      string `json:"name"`
		Driver    string `json:"driver"`
		Operation string `json:"operation"`
		Connected bool   `json:"connected"`
		NoSpace   bool   `json:"nospace"`
	}
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &data) != nil {
		i.nonsense.Do(func() {
			i.d.log.Warn("an engine sends events that make no sense; they are left out", "domain", i.name, "event", printable(e.Name))
		})
		return
	}
	switch e.Name {
	case "STOP":
		i.deliver(driver.Stopped{Reason: data.Reason})
	case "RESUME":
		i.deliver(driver.Resumed{})
	case "RESET":
		i.deliver(driver.Reset{Guest: data.Guest})
	case "POWERDOWN":
		i.deliver(driver.Powerdown{})
	case "SHUTDOWN":
		i.deliver(driver.Shutdown{Guest: data.Guest, Reason: data.Reason})
	case "GUEST_PANICKED":
		i.deliver(driver.Panicked{Action: data.Action})
	case "BALLOON_CHANGE":
		i.deliver(driver.BalloonChanged{Actual: data.Actual})
	case "DEVICE_DELETED":
		if vcpu, ok := vcpuNumber(data.Device); ok {
			i.vcpuRemoved(vcpu)
		} else if data.Device != "" {
			i.removed(data.Device)
		}
	case "X_VIRTD_NIC_BACKEND":
		i.backendIs(nicBackend{ID: data.Name, Driver: data.Driver, Reason: data.Reason})
	case "NIC_RX_FILTER_CHANGED":
		i.rxFilterChanged(data.Name)
	case "X_VIRTD_VHOST_USER":
		i.vhostUserChanged(data.Device, data.Connected)
	case "DEVICE_UNPLUG_GUEST_ERROR":
		if vcpu, ok := vcpuNumber(data.Device); ok {
			i.deliver(driver.VCPUKept{VCPU: vcpu})
		} else {
			i.deliver(driver.DeviceKept{Alias: data.Device})
		}
	case "BLOCK_IO_ERROR":
		reason := printable(data.Reason)
		if data.NoSpace {
			reason = "enospc" // the one that libvirt's clients know
		}
		i.deliver(driver.IOFailed{Alias: data.Device, Write: data.Operation == "write", Reason: reason})
	}
	i.deliver(driver.MonitorEvent{Name: e.Name, Time: e.Time, Data: e.Data})
}

// Adopt implements driver.Driver.
func (d *Driver) Adopt(ctx context.Context, text json.RawMessage, live *domain.Definition) (driver.Instance, error) {
	rec, err := decodeRecord(text)
	if err != nil {
		return nil, err
	}
	proc, err := supervise.Find(rec.PID, rec.StartTime)
	if errors.Is(err, supervise.ErrGone) {
		exit := rec.exit("")
		if err := d.clean(rec); err != nil {
			d.log.Error("cannot clean up after an engine", "domain", live.Name(), "err", err)
		}
		d.keepFilters(live, rec.Taps)
		d.releaseTaps(rec.Taps)
		d.endSteering(live, rec.Taps)
		d.releaseHostdevs(live.Name(), rec)
		return nil, &driver.Gone{Exit: exit}
	}
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot adopt the engine of domain '%s': %w", live.Name(), err)
	}
	i := newInstance(d, live.Name(), live, *rec, proc)
	d.register(i.name, &i.rec)
	d.keepFilters(live, rec.Taps)
	d.adoptHostdevs(i.name, &i.rec)
	if err := i.connect(ctx); err != nil { // alive all the same: watch tries again
		d.log.Warn("an engine is there and its monitor does not answer", "domain", i.name, "pid", rec.PID, "err", err)
	}
	i.reconcile(ctx)
	i.syncBackends(ctx)
	i.d.show(i)
	i.checkLinks()
	i.syncRxFilters()
	if d.cfg.UserNets != nil {
		d.cfg.UserNets.Adopt(i.rec.Dir)
	}
	go i.watch()
	return i, nil
}
