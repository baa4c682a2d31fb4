package manager

import (
	"context"
	"time"

	"virtd/driver"
	"virtd/virterr"
)

// Shutdown presses the power button; the guest decides when it goes. It returns at once.
func (d *Domain) Shutdown(ctx context.Context, flags ShutdownFlags) error {
	return d.powerButton(ctx, flags, false, "shutdown", "qemuDomainShutdownFlags")
}

// Reboot presses the power button, and starts the machine again where the guest would power off.
func (d *Domain) Reboot(ctx context.Context, flags ShutdownFlags) error {
	return d.powerButton(ctx, flags, true, "reboot", "qemuDomainReboot")
}

func (d *Domain) powerButton(ctx context.Context, flags ShutdownFlags, reboot bool, what, function string) error {
	if err := checkFlags(flags, ShutdownACPI|ShutdownAgent, function); err != nil {
		return err
	}
	j, err := d.begin(ctx, what)
	if err != nil {
		return err
	}
	defer j.end()
	if flags == ShutdownAgent {
		return virterr.New(virterr.ArgumentUnsupported, "QEMU guest agent is not configured")
	}
	inst, live, err := d.engine()
	if err != nil {
		return err
	}
	if state, _ := d.State(); state != Running {
		return notRunning()
	}
	if f := live.View().Features; f == nil || f.ACPI == nil {
		return virterr.New(virterr.OperationUnsupported,
			"%s of domain '%s' needs <acpi/> in its <features>: without it there is no power button; use destroy or reset", what, d.Name())
	}
	cctx, cancel := d.call(j.ctx)
	defer cancel()
	err = d.arm(cctx, inst, reboot)
	if err == nil {
		err = inst.Powerdown(cctx)
	}
	return j.outcome(d, err)
}

// arm says what the guest's next power-off shall be. An engine that cannot reset in place is started anew instead.
func (d *Domain) arm(ctx context.Context, inst driver.Instance, reboot bool) error {
	d.mu.Lock()
	r := d.run
	if r == nil {
		d.mu.Unlock()
		return notRunning()
	}
	change := r.resetArmed != reboot
	r.rebooting, r.resetArmed = reboot, reboot
	d.mu.Unlock()
	if !change {
		return nil
	}
	err := inst.SetPoweroffAction(ctx, reboot)
	if err != nil {
		d.mu.Lock()
		r.resetArmed = false
		d.mu.Unlock()
	}
	if virterr.Is(err, virterr.OperationUnsupported) {
		return nil
	}
	return err
}

// Reset presses the reset button.
func (d *Domain) Reset(ctx context.Context) error {
	return d.withEngine(ctx, "reset", func(ctx context.Context, inst driver.Instance) error { return inst.Reset(ctx) })
}

// Suspend halts the vCPUs.
func (d *Domain) Suspend(ctx context.Context) error {
	return d.withEngine(ctx, "suspend", func(ctx context.Context, inst driver.Instance) error {
		switch state, _ := d.State(); state {
		case Paused:
			return nil
		case Running:
		default:
			return virterr.New(virterr.OperationInvalid, "domain is not running (it is %s)", state)
		}
		if err := inst.Stop(ctx); err != nil {
			return err
		}
		d.mu.Lock()
		d.setPaused(PausedUser, SuspendedPaused)
		d.mu.Unlock()
		d.logStatus()
		return nil
	})
}

// Resume lets the vCPUs run again.
func (d *Domain) Resume(ctx context.Context) error {
	return d.withEngine(ctx, "resume", func(ctx context.Context, inst driver.Instance) error {
		switch state, _ := d.State(); state {
		case Running:
			return virterr.New(virterr.OperationInvalid, "domain is already running")
		case Paused, Crashed:
		default:
			return virterr.New(virterr.OperationInvalid, "domain cannot resume: it is %s", state)
		}
		if err := inst.Cont(ctx); err != nil {
			return err
		}
		d.mu.Lock()
		if d.run != nil {
			d.setRunning(RunningUnpaused)
		}
		d.mu.Unlock()
		d.logStatus()
		return nil
	})
}

// withEngine runs f as a job with the domain's engine and a deadline.
func (d *Domain) withEngine(ctx context.Context, what string, f func(context.Context, driver.Instance) error) error {
	j, err := d.begin(ctx, what)
	if err != nil {
		return err
	}
	defer j.end()
	inst, _, err := d.engine()
	if err != nil {
		return err
	}
	cctx, cancel := d.call(j.ctx)
	defer cancel()
	return j.outcome(d, f(cctx, inst))
}

// Destroy ends the domain now. The engine is asked to flush and leave; one that does not is killed, unless the flag says
// otherwise. A job in progress is interrupted.
func (d *Domain) Destroy(ctx context.Context, flags DestroyFlags) error {
	if err := checkFlags(flags, DestroyGraceful|DestroyRemoveLogs, "qemuDomainDestroyFlags"); err != nil {
		return err
	}
	return d.destroy(ctx, flags, func(*run) bool { return true })
}

// Autodestroy ends the life with this id, if the domain still has it and it is to end with its client's connection.
func (d *Domain) Autodestroy(ctx context.Context, id int) error {
	mine := func(r *run) bool { return r.autodestroy && d.id == id }
	d.mu.Lock()
	over := d.run == nil || !mine(d.run)
	d.mu.Unlock()
	if over {
		return nil
	}
	return d.destroy(ctx, 0, mine)
}

// destroy ends the domain's life if it is the wanted one, which is asked with d.mu held.
func (d *Domain) destroy(ctx context.Context, flags DestroyFlags, wanted func(*run) bool) error {
	if !d.Active() {
		if d.isRemoved() {
			return d.notFound()
		}
		return notRunning()
	}
	d.jobs.interrupt()
	j, err := d.begin(ctx, "destroy")
	if err != nil {
		return err
	}
	defer j.end()
	d.mu.Lock()
	r := d.run
	if r == nil || !wanted(r) {
		d.mu.Unlock()
		return notRunning()
	}
	r.destroying = true
	inst := r.inst
	d.mu.Unlock()
	if inst == nil { // between two engines of a restart, which needs our job to go on
		d.finish(r, ShutOffDestroyed, StoppedDestroyed, "destroyed")
		return nil
	}
	return d.end(j, r, inst, flags&DestroyGraceful != 0)
}

// end makes the engine leave and waits until it has.
func (d *Domain) end(j *job, r *run, inst driver.Instance, graceful bool) error {
	if d.quit(j.ctx, r, inst) {
		return nil
	}
	if graceful {
		d.mu.Lock()
		r.destroying = false
		d.mu.Unlock()
		return virterr.New(virterr.OperationTimeout, "the engine of domain '%s' (pid %d) did not leave when asked; destroy it without --graceful", d.Name(), inst.PID())
	}
	if err := inst.Kill(); err != nil && !d.isGone(r) {
		return err
	}
	timer := time.NewTimer(d.m.cfg.JobTimeout)
	defer timer.Stop()
	select {
	case <-r.gone:
		return nil
	case <-timer.C:
		return virterr.New(virterr.OperationTimeout, "the engine of domain '%s' (pid %d) was killed and is still there: it may wait for a disk or network file system", d.Name(), inst.PID())
	}
}

// quit asks the engine to leave and reports whether it did in time.
func (d *Domain) quit(ctx context.Context, r *run, inst driver.Instance) bool {
	ctx, cancel := context.WithTimeout(ctx, d.m.cfg.QuitTimeout)
	defer cancel()
	if err := inst.Quit(ctx); err != nil && !d.isGone(r) {
		d.m.log.Warn("an engine does not take the quit command", "domain", d.Name(), "err", err)
		select { // it may be leaving all the same
		case <-r.gone:
			return true
		default:
			return false
		}
	}
	select {
	case <-r.gone:
		return true
	case <-ctx.Done():
		return d.isGone(r)
	}
}
