package kvm

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/kvm/qmp"
	"virtd/hypervisor"
	"virtd/virterr"
)

// The names under which clients know what the engine is asked for; errors have them.
const (
	commandAttach   = "device_add"
	commandDetach   = "device_del"
	commandThrottle = "block_set_io_throttle"
	commandSendKey  = "send-key"
)

// Attach implements driver.Instance.
func (i *instance) Attach(ctx context.Context, req driver.AttachRequest) error {
	i.attachMu.Lock()
	defer i.attachMu.Unlock()
	client, err := i.monitor()
	if err != nil {
		return err
	}
	a, resources, err := PlanDevice(req.Live, req.Alias, i.d.facts())
	if err != nil {
		return err
	}
	if a.Hostdev != nil {
		return i.attachHostdev(ctx, client, req, a, resources)
	}
	cfg := hypervisor.Config{Name: i.name}
	if a.NIC != nil {
		cfg.NICs = append(cfg.NICs, *a.NIC)
	}
	if a.Disk != nil {
		cfg.Disks = append(cfg.Disks, *a.Disk)
	}
	o, err := i.d.open(cfg, resources, i.rec.Dir)
	if err != nil {
		return err
	}
	defer o.close()
	before := i.definition()
	i.addDevice(o, req.Live)
	undo := func() {
		i.dropDevice(req.Alias)
		i.setDefinition(before)
	}
	if err := req.Record(i.Record(), o.runtime); err != nil {
		undo()
		return err
	}
	names := []hypervisor.FileName{}
	for _, r := range resources {
		names = append(names, r.Files...)
	}
	if a.Disk != nil {
		o.addChains(&cfg)
		a.Disk, names = &cfg.Disks[0], append(names, cfg.Files...)
	}
	err = client.ExecuteFiles(ctx, "x-virtd-attach", map[string]any{"device": a, "files": names}, o.files, nil)
	if err == nil || i.hasAfterAll(req.Alias, err) {
		if a.NIC != nil { // vhost's threads are the kernel's
			if err := i.pinEmulatorConfigured(ctx, req.Live); err != nil {
				i.d.log.Warn("the threads of an interface run on other CPUs than they should", "domain", i.name, "interface", req.Alias, "err", err)
			}
		}
		return nil
	}
	undo()
	i.catchUpLater(err)
	return i.explain(commandAttach, err)
}

// answerTime is how long an engine that did not answer a command is asked what became of it.
const answerTime = 2 * time.Second

// hasAfterAll reports whether the engine has a device although no answer came to the command that gave it.
func (i *instance) hasAfterAll(alias string, err error) bool {
	var refused *qmp.Error
	if errors.As(err, &refused) {
		return false
	}
	ctx, cancel := context.WithTimeout(i.ctx, answerTime)
	defer cancel()
	devices, err := i.devices(ctx)
	return err == nil && slices.Contains(devices, alias)
}

// lateAnswer is how long an engine that did not answer a command is waited for, to learn what became of it.
const lateAnswer = 10 * time.Minute

// catchUpLater has the engine asked what it has, when it answers again: the command that failed with err may have been
// carried out after all. It returns at once.
func (i *instance) catchUpLater(err error) {
	var refused *qmp.Error
	if errors.As(err, &refused) {
		return
	}
	i.late.Go(func() {
		ctx, cancel := context.WithTimeout(i.ctx, lateAnswer)
		defer cancel()
		if _, err := i.devices(ctx); err == nil { // commands of a connection are answered in their order; one that is lost is opened again
			i.reconcile(ctx)
		}
	})
}

// Detach implements driver.Instance.
func (i *instance) Detach(ctx context.Context, alias string) error {
	client, err := i.monitor()
	if err != nil {
		return err
	}
	return i.explain(commandDetach, client.Execute(ctx, "x-virtd-detach", map[string]string{"id": alias}, nil))
}

// devices asks the engine which devices it has.
func (i *instance) devices(ctx context.Context) ([]string, error) {
	var names []string
	err := i.execute(ctx, "x-virtd-devices", nil, &names)
	return names, err
}

// reconcile catches up with the vCPUs that came or went, the devices that came too late, and those that went while nobody listened, or that never came because virtd ended in
// between. An engine that does not know the question has every device from its start.
func (i *instance) reconcile(ctx context.Context) {
	i.attachMu.Lock()
	defer i.attachMu.Unlock()
	have, err := i.devices(ctx)
	if err != nil {
		if !virterr.Is(err, virterr.OperationUnsupported) {
			i.d.log.Warn("an engine does not tell which devices it has", "domain", i.name, "err", err)
		}
		return
	}
	live := i.definition()
	for _, alias := range live.LiveAliases() {
		if _, ours := i.function(alias); !slices.Contains(have, alias) && (ours || !live.IsHostdev(alias)) {
			i.removed(alias)
		}
	}
	i.detachUnknown(ctx, have)
	i.catchUpVhostUsers(ctx)
	i.reconcileVCPUs(ctx)
}

// detachUnknown asks the guest to let go of devices that came after virtd had given their attachment up. What they use on the
// host is released when they go.
func (i *instance) detachUnknown(ctx context.Context, have []string) {
	live := i.definition()
	for _, alias := range have {
		if _, err := live.ByAlias(alias); err == nil {
			continue
		}
		i.d.log.Warn("an engine has a device that its attachment was given up for; the guest is asked to let go of it", "domain", i.name, "device", printable(alias))
		if err := i.execute(ctx, "x-virtd-detach", map[string]string{"id": alias}, nil); err != nil {
			i.d.log.Warn("cannot take a device away", "domain", i.name, "device", printable(alias), "err", err)
		}
	}
}

// removed notes that the engine has a device no more. A function is the host's again before that is told.
func (i *instance) removed(alias string) {
	address, function := i.function(alias)
	i.dropDevice(alias)
	told := driver.DeviceRemoved{Alias: alias}
	if !function {
		i.deliver(told)
		return
	}
	i.releases.Go(func() { // a driver's probe can take long
		i.d.releaseFunction(i.name, &i.rec, address)
		i.deliver(told)
	})
}

// addDevice records what was opened for a device of live.
func (i *instance) addDevice(o *opened, live *domain.Definition) {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	i.live = live
	i.rec.Images = append(slices.Clip(i.rec.Images), o.images...)
	i.rec.Sockets = append(slices.Clip(i.rec.Sockets), o.sockets...)
	i.rec.Taps = merged(i.rec.Taps, o.taps)
	i.rec.Runtime.Taps = merged(i.rec.Runtime.Taps, o.runtime.Taps)
	i.rec.Runtime.NetDrivers = merged(i.rec.Runtime.NetDrivers, o.runtime.NetDrivers)
	i.rec.Runtime.Chains = merged(i.rec.Runtime.Chains, o.runtime.Chains)
	i.rec.Runtime.NetBackends = merged(i.rec.Runtime.NetBackends, o.runtime.NetBackends)
	i.rec.Runtime.NetAddresses = merged(i.rec.Runtime.NetAddresses, o.runtime.NetAddresses)
	i.d.useImages(i.name, o.images)
}

// dropDevice forgets what a device used.
func (i *instance) dropDevice(alias string) {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	i.dropVhostUserSocket(alias)
	if without, err := i.live.RemoveAlias(alias); err == nil {
		i.live = without
	}
	var kept, gone []imageRecord
	for _, image := range i.rec.Images {
		if image.Alias == alias {
			gone = append(gone, image)
		} else {
			kept = append(kept, image)
		}
	}
	i.rec.Images = kept
	if tap := i.rec.Taps[alias]; tap != "" {
		i.d.releaseTaps(map[string]string{alias: tap})
	}
	i.rec.Taps = without(i.rec.Taps, alias)
	i.rec.Runtime.Taps = without(i.rec.Runtime.Taps, alias)
	i.rec.Runtime.NetDrivers = without(i.rec.Runtime.NetDrivers, alias)
	i.rec.Refused = without(i.rec.Refused, alias)
	i.rec.Runtime.Chains = without(i.rec.Runtime.Chains, alias)
	i.rec.Functions = without(i.rec.Functions, alias)
	i.rec.Runtime.NetBackends = without(i.rec.Runtime.NetBackends, alias)
	i.rec.Runtime.NetAddresses = without(i.rec.Runtime.NetAddresses, alias)
	i.d.freeImages(i.name, gone)
	i.dropHostPart(alias)
}

// dropHostPart removes what the host has for a device that is gone.
func (i *instance) dropHostPart(alias string) {
	err := removeLink(i.d.cfg.Links, linkPath(i.rec.Dir, alias))
	if i.d.cfg.UserNets != nil {
		err = errors.Join(err, i.d.cfg.UserNets.Stop(i.rec.Dir, alias))
	}
	if err != nil {
		i.d.log.Error("something stays on the host of a device that is gone", "domain", i.name, "device", alias, "err", err)
	}
}

// merged and without leave the old map as it is: others may be reading it.
func merged[V any](a, b map[string]V) map[string]V {
	out := make(map[string]V, len(a)+len(b))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

func without[V any](a map[string]V, key string) map[string]V {
	out := maps.Clone(a)
	delete(out, key)
	return out
}

// definition returns the live definition as the engine has it.
func (i *instance) definition() *domain.Definition {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	return i.live
}

func (i *instance) setDefinition(live *domain.Definition) {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	i.live = live
}

// used returns the images and taps in use. The caller must not change them.
func (i *instance) used() (images []imageRecord, taps map[string]string) {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	return i.rec.Images, i.rec.Taps
}
