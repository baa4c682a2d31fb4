package manager

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// AttachDevice gives the domain a device: the running one, the persistent configuration, or both, as flags say.
func (d *Domain) AttachDevice(ctx context.Context, xml string, flags Affect) error {
	dev, err := parseDevice(xml, flags, "qemuDomainAttachDeviceFlags")
	if err == nil {
		err = dev.Complete()
	}
	if err != nil {
		return err
	}
	j, err := d.begin(ctx, "attach-device")
	if err != nil {
		return err
	}
	defer j.end()
	live, config, err := d.targets(flags & affectBoth)
	if err != nil {
		return err
	}
	stored, err := d.editStored(config, func(def *domain.Definition) (*domain.Definition, error) { return def.AttachDevice(dev) })
	if err != nil {
		return err
	}
	if live {
		if err := d.attachLive(j.ctx, dev); err != nil {
			return j.outcome(d, err)
		}
	}
	if config {
		return d.m.cfg.Store.Save(stored)
	}
	return nil
}

// parseDevice reads the arguments of a call about one device.
func parseDevice(xml string, flags Affect, function string) (*domain.Device, error) {
	if err := checkFlags(flags, deviceFlagKnown, function); err != nil {
		return nil, err
	}
	return domain.ParseDevice(xml)
}

// editStored returns the stored definition with an edit, nil when it is not wanted. Nothing is stored yet.
func (d *Domain) editStored(wanted bool, edit func(*domain.Definition) (*domain.Definition, error)) (*domain.Definition, error) {
	if !wanted {
		return nil, nil
	}
	stored, err := d.definition()
	if err != nil {
		return nil, err
	}
	return edit(stored)
}

// attachLive gives the running machine a device. The caller has the job.
func (d *Domain) attachLive(ctx context.Context, dev *domain.Device) error {
	inst, before, err := d.engine()
	if err != nil {
		return err
	}
	live, alias, err := before.AttachLive(dev)
	if err != nil {
		return err
	}
	d.mu.Lock()
	r := d.run
	d.mu.Unlock()
	if r == nil {
		return notRunning()
	}
	if live, err = d.resolveNew(live, alias); err != nil {
		return err
	}
	live, alias, release, err := d.connectNew(live, alias)
	if err != nil {
		return err
	}
	record := func(rec json.RawMessage, given domain.Runtime) error {
		with, err := live.SetRuntime(given)
		if err != nil {
			return err
		}
		d.mu.Lock()
		with = withoutGone(with, before, r.live)
		r.live, r.record = with, rec
		d.mu.Unlock()
		return d.syncStatus()
	}
	// A host device pins all RAM, an image may be repaired: either takes longer than an answer may.
	cctx, cancel := context.WithTimeout(ctx, d.m.cfg.JobTimeout)
	defer cancel()
	if err := inst.Attach(cctx, driver.AttachRequest{Live: live, Alias: alias, Record: record}); err != nil {
		d.mu.Lock()
		if now, rerr := r.live.RemoveAlias(alias); rerr == nil {
			r.live = now
		}
		r.record = inst.Record()
		d.mu.Unlock()
		d.logStatus()
		release()
		return err
	}
	d.mu.Lock()
	live = r.live
	d.mu.Unlock()
	d.connected(live)
	d.mu.Lock()
	if d.run == r {
		d.emit(Event{Kind: EventDeviceAdded, Alias: alias})
	}
	d.mu.Unlock()
	return nil
}

// withoutGone returns def without the devices that before has and now has not: they went while def was made.
func withoutGone(def, before, now *domain.Definition) *domain.Definition {
	if before == now {
		return def
	}
	have := now.LiveAliases()
	for _, alias := range before.LiveAliases() {
		if slices.Contains(have, alias) {
			continue
		}
		if less, err := def.RemoveAlias(alias); err == nil {
			def = less
		}
	}
	return def
}

// DetachDevice takes a device away from the domain: the running one, the persistent configuration, or both, as flags say.
// From a running domain a device goes when its guest lets go of it: this waits a while for that, and success means only
// that the guest was asked. EventDeviceRemoved says when it is done.
func (d *Domain) DetachDevice(ctx context.Context, xml string, flags Affect) error {
	dev, err := parseDevice(xml, flags, "qemuDomainDetachDeviceFlags")
	if err != nil {
		return err
	}
	return d.detach(ctx, flags, true,
		func(live *domain.Definition) (string, error) { return live.FindLive(dev) },
		func(def *domain.Definition) (*domain.Definition, error) { return def.DetachDevice(dev) })
}

// DetachDeviceAlias is DetachDevice for the device with that alias. It does not wait for the guest.
func (d *Domain) DetachDeviceAlias(ctx context.Context, alias string, flags Affect) error {
	if err := checkFlags(flags, affectBoth, "qemuDomainDetachDeviceAlias"); err != nil {
		return err
	}
	return d.detach(ctx, flags, false,
		func(live *domain.Definition) (string, error) { return alias, live.CheckDetachLive(alias) },
		func(def *domain.Definition) (*domain.Definition, error) {
			dev, err := def.ByAlias(alias)
			if err != nil {
				return nil, err
			}
			if err := dev.CheckDetach(); err != nil {
				return nil, err
			}
			return def.RemoveAlias(alias)
		})
}

func (d *Domain) detach(ctx context.Context, flags Affect, wait bool, find func(*domain.Definition) (alias string, err error),
	edit func(*domain.Definition) (*domain.Definition, error)) error {
	j, err := d.begin(ctx, "detach-device")
	if err != nil {
		return err
	}
	defer j.end()
	live, config, err := d.targets(flags & affectBoth)
	if err != nil {
		return err
	}
	stored, err := d.editStored(config, edit)
	if err != nil {
		return err
	}
	if live {
		if err := d.detachLive(j.ctx, wait, find); err != nil {
			return j.outcome(d, err)
		}
	}
	if config {
		return d.m.cfg.Store.Save(stored)
	}
	return nil
}

// detachLive asks the guest to let go of a device and waits for the answer, if at all, at most Config.DetachWait. The
// caller has the job.
func (d *Domain) detachLive(ctx context.Context, wait bool, find func(*domain.Definition) (alias string, err error)) error {
	inst, current, err := d.engine()
	if err != nil {
		return err
	}
	alias, err := find(current)
	if err != nil {
		return err
	}
	answered := d.expectRemoval(alias)
	defer d.expectRemoval("")
	cctx, cancel := d.call(ctx)
	defer cancel()
	if err := inst.Detach(cctx, alias); err != nil {
		return err
	}
	if !wait {
		return nil
	}
	timer := time.NewTimer(d.m.cfg.DetachWait)
	defer timer.Stop()
	select {
	case gone := <-answered:
		if !gone {
			return virterr.New(virterr.OperationFailed, "detach of device '%s' was rejected by the guest", alias)
		}
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// expectRemoval says whose removal a job waits for, "" for nobody's. What becomes of it comes over the channel: true when
// the device is gone, false when the guest keeps it.
func (d *Domain) expectRemoval(alias string) <-chan bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaving, d.left = alias, make(chan bool, 1)
	return d.left
}

// answerRemoval tells the job that waits. The caller holds d.mu.
func (d *Domain) answerRemoval(alias string, gone bool) {
	if d.leaving != alias {
		return
	}
	select {
	case d.left <- gone:
	default:
	}
}

// deviceRemoved notes that the machine has a device no more. The caller holds d.mu.
func (d *Domain) deviceRemoved(r *run, alias string) {
	if r.inst != nil {
		r.record = r.inst.Record()
	}
	without, err := r.live.RemoveAlias(alias)
	if err != nil {
		return // the device of an attachment that failed
	}
	before := r.live
	r.live = without
	d.emit(Event{Kind: EventDeviceRemoved, Alias: alias})
	d.m.wg.Go(func() {
		d.disconnectGone(before, alias) // which writes a file
		d.mu.Lock()
		defer d.mu.Unlock()
		d.answerRemoval(alias, true)
	})
	d.statusLater()
}

// deviceKept notes that the guest does not let go of a device. The caller holds d.mu.
func (d *Domain) deviceKept(alias string) {
	d.emit(Event{Kind: EventDeviceRemovalFailed, Alias: alias})
	d.answerRemoval(alias, false)
}
