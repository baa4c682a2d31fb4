package manager

import (
	"context"
	"fmt"
	"time"

	"virtd/domain"
	"virtd/virterr"
)

// SetVCPUs sets how many vCPUs the domain has: the running one, its configuration, or both, as flags say. With VCPUMaximum
// it sets how many the configuration can have. A vCPU of a running domain goes when its guest lets go of it: this waits a
// while for each, and fails when the guest does not. What the guest has let go of until then is gone.
func (d *Domain) SetVCPUs(ctx context.Context, n int, flags Affect) error {
	if err := checkFlags(flags, vcpuFlagsKnown, "qemuDomainSetVcpusFlags"); err != nil {
		return err
	}
	if flags&VCPUGuest != 0 {
		return virterr.New(virterr.ArgumentUnsupported, "QEMU guest agent is not configured")
	}
	if flags&VCPUMaximum != 0 {
		return d.setMaxVCPUs(ctx, n, flags&affectBoth)
	}
	return d.setVCPUs(ctx, flags&affectBoth,
		func(live *domain.Definition) ([]int, bool, error) { return live.SelectVCPUs(n) },
		func(def *domain.Definition) (*domain.Definition, error) {
			if n > def.VCPUs() {
				return nil, virterr.New(virterr.InvalidArg,
					"requested vcpus is greater than max allowable vcpus for the persistent domain: %d > %d", n, def.VCPUs())
			}
			return def.SetVCPUs(n, flags&VCPUHotpluggable != 0)
		})
}

func (d *Domain) setMaxVCPUs(ctx context.Context, n int, flags Affect) error {
	live, _, err := d.targets(flags)
	if err != nil {
		return err
	}
	if live {
		return virterr.New(virterr.OperationInvalid, "maximum vcpu count of a live domain can't be modified")
	}
	return d.change(ctx, "set-vcpus", AffectConfig, func(def *domain.Definition) (*domain.Definition, error) { return def.SetMaxVCPUs(n) }, nil)
}

// SetVCPU makes the vCPUs of those numbers come, or go, as SetVCPUs does. Of a running domain it is one.
func (d *Domain) SetVCPU(ctx context.Context, vcpus []int, online bool, flags Affect) error {
	if err := checkFlags(flags, affectBoth, "qemuDomainSetVcpu"); err != nil {
		return err
	}
	if len(vcpus) == 0 {
		return virterr.New(virterr.InvalidArg, "no vcpus selected for modification")
	}
	return d.setVCPUs(ctx, flags,
		func(live *domain.Definition) ([]int, bool, error) {
			return vcpus, online, live.CheckVCPUState(vcpus, online)
		},
		func(def *domain.Definition) (*domain.Definition, error) { return def.SetVCPUState(vcpus, online) })
}

// setVCPUs changes the vCPUs that choose names of the running domain, and the configuration by edit, as flags say.
func (d *Domain) setVCPUs(ctx context.Context, flags Affect, choose func(live *domain.Definition) (vcpus []int, online bool, err error),
	edit func(*domain.Definition) (*domain.Definition, error)) error {
	j, err := d.begin(ctx, "set-vcpus")
	if err != nil {
		return err
	}
	defer j.end()
	live, config, err := d.targets(flags)
	if err != nil {
		return err
	}
	stored, err := d.editStored(config, edit)
	if err != nil {
		return err
	}
	if live {
		if err := d.setLiveVCPUs(j.ctx, choose); err != nil {
			return j.outcome(d, err)
		}
	}
	if config {
		return d.m.cfg.Store.Save(stored)
	}
	return nil
}

// setLiveVCPUs is the part of setVCPUs about the running domain. The caller has the job.
func (d *Domain) setLiveVCPUs(ctx context.Context, choose func(live *domain.Definition) (vcpus []int, online bool, err error)) error {
	_, live, err := d.engine()
	if err != nil {
		return err
	}
	vcpus, online, err := choose(live)
	if err == nil && len(vcpus) == 0 {
		return nil
	}
	if never := live.CheckVCPUHotplug(); never != nil && !virterr.Is(err, virterr.InvalidArg) {
		return never
	}
	if err != nil {
		return err
	}
	for _, vcpu := range vcpus {
		if online {
			err = d.plugVCPU(ctx, vcpu)
		} else {
			err = d.unplugVCPU(ctx, vcpu)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// plugVCPU gives the running domain a vCPU. The engine has it before the record names it: adoption asks the engine.
func (d *Domain) plugVCPU(ctx context.Context, vcpu int) error {
	inst, before, err := d.engine()
	if err != nil {
		return err
	}
	with, err := before.PlugVCPU(vcpu)
	if err != nil {
		return err
	}
	cctx, cancel := d.call(ctx)
	defer cancel()
	if err := inst.PlugVCPU(cctx, with, vcpu); err != nil {
		return err
	}
	d.mu.Lock()
	if r := d.run; r != nil {
		if now, err := r.live.PlugVCPU(vcpu); err == nil {
			r.live = now
		}
	}
	d.mu.Unlock()
	return d.syncStatus()
}

// unplugVCPU asks the guest to let go of a vCPU and waits for the answer, at most Config.DetachWait. A vCPU that goes later
// leaves the live definition then.
func (d *Domain) unplugVCPU(ctx context.Context, vcpu int) error {
	inst, _, err := d.engine()
	if err != nil {
		return err
	}
	answered := d.expectRemoval(vcpuAlias(vcpu))
	defer d.expectRemoval("")
	cctx, cancel := d.call(ctx)
	defer cancel()
	if err := inst.UnplugVCPU(cctx, vcpu); err != nil {
		return err
	}
	timer := time.NewTimer(d.m.cfg.DetachWait)
	defer timer.Stop()
	select {
	case gone := <-answered:
		if !gone {
			return virterr.New(virterr.OperationFailed, "detach of device '%s' was rejected by the guest", vcpuAlias(vcpu))
		}
	case <-timer.C:
		return virterr.New(virterr.OperationTimeout, "vcpu unplug request timed out. Unplug result must be manually inspected in the domain")
	case <-ctx.Done():
		return ctx.Err()
	}
	return d.syncStatus()
}

// vcpuAlias is the name of a vCPU where devices have theirs. Aliases of users begin with ua-.
func vcpuAlias(vcpu int) string { return fmt.Sprintf("vcpu%d", vcpu) }

// vcpuRemoved notes that the machine has a vCPU no more. The caller holds d.mu.
func (d *Domain) vcpuRemoved(r *run, vcpu int) {
	if without, err := r.live.UnplugVCPU(vcpu); err == nil {
		r.live = without
	}
	d.answerRemoval(vcpuAlias(vcpu), true)
	d.statusLater()
}

// vcpuKept notes that the guest does not let go of a vCPU. The caller holds d.mu.
func (d *Domain) vcpuKept(vcpu int) {
	d.emit(Event{Kind: EventDeviceRemovalFailed, Alias: vcpuAlias(vcpu)})
	d.answerRemoval(vcpuAlias(vcpu), false)
}

// vcpusPresent corrects the live definition by what the engine says. The caller holds d.mu.
func (d *Domain) vcpusPresent(r *run, vcpus []int) {
	r.live = r.live.WithVCPUs(vcpus)
	d.statusLater()
}
