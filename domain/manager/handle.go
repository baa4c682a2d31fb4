package manager

import (
	"context"
	"time"

	"virtd/driver"
)

// emit queues an event about the domain. The caller holds d.mu, which orders the events of one domain.
func (d *Domain) emit(e Event) {
	e.Domain = d.ref()
	d.m.events.Emit(e)
}

func (d *Domain) emitLifecycle(t LifecycleType, detail int) {
	d.emit(Event{Kind: EventLifecycle, Type: t, Detail: detail})
}

// setRunning notes that the vCPUs run, unless that is known. The caller holds d.mu.
func (d *Domain) setRunning(reason Reason) {
	if d.state != Running {
		d.state, d.reason = Running, reason
		d.emitLifecycle(LifecycleResumed, ResumedUnpaused)
	}
}

// setPaused notes that the vCPUs stand still, unless that is known. The caller holds d.mu.
func (d *Domain) setPaused(reason Reason, detail int) {
	if d.state == Running || d.state == Blocked {
		d.state, d.reason = Paused, reason
		d.emitLifecycle(LifecycleSuspended, detail)
	}
}

// handle takes one event of the engine of life r. Events come one at a time.
func (d *Domain) handle(r *run, e driver.Event) {
	if exit, ok := e.(driver.Exited); ok {
		d.exited(r, exit.Exit)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run != r {
		return
	}
	switch e := e.(type) {
	case driver.Resumed:
		switch {
		case r.starting:
			d.booted(r)
		case d.state == Paused && d.reason == PausedSave:
			d.setRunning(RunningUnsaved)
		case d.state == Paused && d.reason == PausedStartingUp: // a restart's new engine
			d.setRunning(RunningBooted)
		default:
			d.setRunning(RunningUnpaused)
		}
		d.statusLater()
	case driver.Stopped:
		switch e.Reason {
		case "io-error":
			d.setPaused(PausedIOError, SuspendedIOError)
		case driver.StoppedForSave:
			d.setPaused(PausedSave, SuspendedPaused)
		case driver.StoppedForDump:
			d.setPaused(PausedDump, SuspendedPaused)
		default:
			d.setPaused(PausedUser, SuspendedPaused)
		}
		d.statusLater()
	case driver.Reset:
		d.resetInPlace(r)
	case driver.Shutdown:
		d.poweringOff(r, e.Guest)
	case driver.Panicked:
		d.state, d.reason = Crashed, CrashedPanicked
		d.emitLifecycle(LifecycleCrashed, CrashedByPanic)
		d.statusLater()
	case driver.BalloonChanged:
		if kib := e.Actual / 1024; kib != r.balloon {
			r.balloon = kib
			d.emit(Event{Kind: EventBalloon, Balloon: kib})
		}
	case driver.DeviceRemoved:
		d.deviceRemoved(r, e.Alias)
	case driver.DeviceKept:
		d.deviceKept(e.Alias)
	case driver.VCPURemoved:
		d.vcpuRemoved(r, e.VCPU)
	case driver.VCPUKept:
		d.vcpuKept(e.VCPU)
	case driver.VCPUsPresent:
		d.vcpusPresent(r, e.VCPUs)
	case driver.InterfaceBackend:
		d.backendChanged(r, e)
	case driver.IOFailed:
		d.emit(Event{Kind: EventIOError, Alias: e.Alias, Reason: e.Reason, Action: 2, Path: diskPath(r.live, e.Alias)})
	case driver.MonitorEvent:
		d.emit(Event{Kind: EventMonitor, Name: e.Name, Time: e.Time, Data: e.Data})
	}
}

// poweringOff notes the end of the guest. The caller holds d.mu.
func (d *Domain) poweringOff(r *run, guest bool) {
	if r.sawShutdown || d.state == Crashed || r.endAs != nil { // a crash is told as such, and so is what we end ourselves
		return
	}
	r.sawShutdown = true
	d.state, d.reason = ShuttingOff, ShuttingUnknown
	detail := ShutdownByHost
	if guest {
		detail = ShutdownByGuest
	}
	d.emitLifecycle(LifecycleShutdown, detail)
}

// resetInPlace notes that the machine began anew. The caller holds d.mu.
func (d *Domain) resetInPlace(r *run) {
	if d.state == Crashed {
		d.state, d.reason = Paused, PausedCrashed
	}
	if r.sawShutdown { // it was powering off, and the action said to start again
		r.sawShutdown = false
		d.state, d.reason = Paused, PausedShutting
		d.setRunning(RunningUnpaused)
	}
	d.emit(Event{Kind: EventReboot})
	r.rebooting = false
	if r.resetArmed {
		r.resetArmed = false
		inst := r.inst
		d.m.wg.Go(func() { d.disarm(inst) })
	}
	d.statusLater()
}

// disarm puts the power-off action back after a reboot.
func (d *Domain) disarm(inst driver.Instance) {
	ctx, cancel := d.call(d.m.ctx)
	defer cancel()
	if err := inst.SetPoweroffAction(ctx, false); err != nil {
		d.m.log.Warn("cannot set the power-off action back after a reboot", "domain", d.Name(), "err", err)
	}
}

// exited takes the engine's end: the life is over, or goes on with a new engine.
func (d *Domain) exited(r *run, exit driver.Exit) {
	d.m.log.Info("engine ended", "domain", d.Name(), "reason", exit.Reason, "detail", exit.Detail)
	d.mu.Lock()
	if d.run != r {
		d.mu.Unlock()
		return
	}
	if r.starting {
		if exit.Reason != driver.ExitKilled { // that was us, for another reason
			r.startupError = exit.String()
		}
		d.mu.Unlock()
		d.finish(r, ShutOffFailed, -1, exit.String())
		return
	}
	reason, detail := r.outcome(exit)
	r.guestEnded = reason == ShutOffShutdown || exit.Reason == driver.ExitPanic
	again := !r.destroying && r.restarts(exit)
	if exit.Reason == driver.ExitShutdown || exit.Reason == driver.ExitReboot {
		d.poweringOff(r, true)
	} else if r.destroying {
		d.poweringOff(r, false)
	}
	if again {
		r.inst, r.blocks = nil, nil
		d.mu.Unlock()
		d.m.wg.Go(func() { d.restart(r, reason, detail, exit) })
		return
	}
	d.mu.Unlock()
	d.finish(r, reason, detail, exit.String())
}

// outcome says what clients see of an exit. The caller holds the domain's mu.
func (r *run) outcome(exit driver.Exit) (Reason, int) {
	switch {
	case exit.Reason == driver.ExitQuit && exit.Detail == driver.SavedDetail:
		return ShutOffSaved, StoppedSaved
	case r.endAs != nil && (exit.Reason == driver.ExitQuit || exit.Reason == driver.ExitKilled):
		return r.endAs.reason, r.endAs.detail
	}
	switch exit.Reason {
	case driver.ExitShutdown, driver.ExitReboot:
		if r.destroying {
			return ShutOffDestroyed, StoppedDestroyed
		}
		return ShutOffShutdown, StoppedShutdown
	case driver.ExitQuit, driver.ExitKilled:
		if r.destroying {
			return ShutOffDestroyed, StoppedDestroyed
		}
		return ShutOffShutdown, StoppedShutdown
	case driver.ExitPanic:
		return ShutOffCrashed, StoppedCrashed
	}
	if r.destroying {
		return ShutOffDestroyed, StoppedDestroyed
	}
	return ShutOffCrashed, StoppedFailed
}

// restarts says whether the configured action wants a new engine after this exit. Actions that the engine does in place
// never come here. The caller holds the domain's mu.
func (r *run) restarts(exit driver.Exit) bool {
	view := r.live.View()
	switch exit.Reason {
	case driver.ExitShutdown:
		return r.rebooting || view.OnPoweroff == "restart"
	case driver.ExitReboot:
		return view.OnReboot == "" || view.OnReboot == "restart"
	case driver.ExitPanic:
		return view.OnCrash == "restart"
	}
	return false
}

// restart gives the life r a new engine. If that fails it is over.
func (d *Domain) restart(r *run, reason Reason, detail int, exit driver.Exit) {
	j, err := d.begin(d.m.ctx, "restart")
	if err != nil {
		if d.m.ctx.Err() == nil {
			d.finish(r, reason, detail, exit.String())
		}
		return
	}
	defer j.end()
	d.mu.Lock()
	over := d.run != r || r.destroying
	r.rebooting, r.sawShutdown, r.balloon = false, false, 0
	d.mu.Unlock()
	if over {
		d.finish(r, ShutOffDestroyed, StoppedDestroyed, exit.String())
		return
	}
	ctx, cancel := context.WithTimeout(j.ctx, time.Minute)
	defer cancel()
	if err = d.launch(ctx, r, nil); err == nil {
		if err = d.restartCont(ctx, r); err == nil {
			return
		}
	}
	d.m.log.Error("cannot start a domain again after it powered off", "domain", d.Name(), "err", err)
	d.mu.Lock()
	inst := r.inst
	r.destroying = true
	d.mu.Unlock()
	if inst == nil {
		d.finish(r, ShutOffFailed, StoppedFailed, err.Error())
		return
	}
	if err := inst.Kill(); err != nil {
		d.m.log.Error("cannot kill an engine", "domain", d.Name(), "err", err)
	}
}

func (d *Domain) restartCont(ctx context.Context, r *run) error {
	cctx, cancel := d.call(ctx)
	defer cancel()
	d.mu.Lock()
	inst := r.inst
	d.state, d.reason = Paused, PausedStartingUp
	d.mu.Unlock()
	if inst == nil {
		return notRunning()
	}
	if err := inst.Cont(cctx); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run == r {
		d.setRunning(RunningBooted)
		d.emit(Event{Kind: EventReboot})
		d.statusLater()
	}
	return nil
}
