package kvm

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/kvm/qmp"
	"virtd/hypervisor"
	"virtd/nodedev"
	"virtd/virterr"
)

// attachHostdev gives the engine a function of the host. That it has it is recorded before the function is taken from the
// host, so that a later virtd gives it back if the engine never got it. The caller holds attachMu.
func (i *instance) attachHostdev(ctx context.Context, client *qmp.Client, req driver.AttachRequest, a hypervisor.Attachment, resources []Resource) error {
	var claim *nodedev.Claim
	for _, r := range resources {
		if r.Hostdev != nil {
			claim = r.Hostdev
		}
	}
	if !claim.IOMMUFD {
		a.Hostdev.GroupOf = i.sharesGroup(claim.Address)
	}
	before := i.definition()
	i.recMu.Lock()
	i.live = req.Live
	i.rec.Functions = merged(i.rec.Functions, map[string]string{req.Alias: claim.Address.String()})
	i.recMu.Unlock()
	undo := func() {
		i.d.releaseFunction(i.name, &i.rec, claim.Address)
		i.dropDevice(req.Alias)
		i.setDefinition(before)
	}
	if err := req.Record(i.Record(), domain.Runtime{}); err != nil {
		i.dropDevice(req.Alias)
		i.setDefinition(before)
		return err
	}
	if err := i.d.claim(ctx, nodedev.User{Name: i.name, UUID: i.rec.uuid()}, []nodedev.Claim{*claim}); err != nil {
		undo()
		return err
	}
	err := i.sendHostdev(ctx, client, a, resources)
	if err == nil || i.hasAfterAll(req.Alias, err) {
		return nil
	}
	undo()
	return i.explain(commandAttach, err)
}

// sendHostdev gives the engine what it needs of VFIO and room for it in its limits.
func (i *instance) sendHostdev(ctx context.Context, client *qmp.Client, a hypervisor.Attachment, resources []Resource) error {
	var send []Resource
	var names []hypervisor.FileName
	for _, r := range resources {
		if r.Hostdev != nil && a.Hostdev.GroupOf != "" {
			a.Hostdev.Group = ""
			continue
		}
		send, names = append(send, r), append(names, r.Files...)
	}
	o, err := i.d.open(hypervisor.Config{}, send, i.rec.Dir)
	if err != nil {
		return err
	}
	defer o.close()
	if err := i.raiseLimits(); err != nil {
		return err
	}
	return client.ExecuteFiles(ctx, "x-virtd-attach", map[string]any{"device": a, "files": names}, o.files, nil)
}

// sharesGroup returns the alias of a function that the engine has and that is in the same IOMMU group, which can be open once
// only.
func (i *instance) sharesGroup(a nodedev.Address) string {
	if i.d.cfg.Hostdevs == nil {
		return ""
	}
	group := i.d.cfg.Hostdevs.Group(a)
	i.recMu.Lock()
	defer i.recMu.Unlock()
	for alias, text := range i.rec.Functions {
		if other, err := nodedev.ParseAddress(text); err == nil && group != "" && other != a && i.d.cfg.Hostdevs.Group(other) == group {
			return alias
		}
	}
	return ""
}

// raiseLimits lets the engine lock all of guest RAM, and open what one more function needs.
func (i *instance) raiseLimits() error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, l := range []struct {
		name     string
		resource int
		at, more uint64
	}{
		{"locked-memory", unix.RLIMIT_MEMLOCK, ringMemory + i.rec.Memory + hostdevMemory, 0},
		{"open-files", unix.RLIMIT_NOFILE, 0, hostdevFiles},
	} {
		var now unix.Rlimit
		if err := unix.Prlimit(i.rec.PID, l.resource, nil, &now); err != nil {
			return virterr.New(virterr.SystemError, "cannot read the %s limit of the engine of domain '%s': %w", l.name, i.name, err)
		}
		want := max(l.at, now.Cur)
		if want <= unix.RLIM_INFINITY-l.more {
			want += l.more
		}
		if want == now.Cur {
			continue
		}
		if err := unix.Prlimit(i.rec.PID, l.resource, &unix.Rlimit{Cur: want, Max: max(want, now.Max)}, nil); err != nil {
			return virterr.New(virterr.SystemError, "cannot raise the %s limit of the engine of domain '%s' to %d: %w", l.name, i.name, want, err)
		}
	}
	return nil
}

// function returns where a device is on the host, if it is one of the host's functions.
func (i *instance) function(alias string) (nodedev.Address, bool) {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	text, ok := i.rec.Functions[alias]
	if !ok {
		return nodedev.Address{}, false
	}
	a, err := nodedev.ParseAddress(text)
	return a, err == nil
}

// releaseFunction gives one function that an engine has given up back to the host.
func (d *Driver) releaseFunction(name string, r *record, a nodedev.Address) {
	if d.cfg.Hostdevs == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), hostdevTimeout)
	defer cancel()
	if err := d.cfg.Hostdevs.Release(ctx, nodedev.User{Name: name, UUID: r.uuid()}, a); err != nil {
		d.log.Error("cannot give a device of the host back", "domain", name, "device", a.String(), "err", err)
	}
}
