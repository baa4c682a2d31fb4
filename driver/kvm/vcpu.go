package kvm

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/kvm/qmp"
	"virtd/driver/kvm/supervise"
	"virtd/virterr"
)

// vcpuThread is what the engine says of a vCPU that is there.
type vcpuThread struct {
	CPU    int `json:"cpu"`
	Thread int `json:"thread"` // in the engine's namespace
}

// vcpus asks the engine which vCPUs it has. An engine of before vCPUs came and went has the first ones.
func (i *instance) vcpus(ctx context.Context) ([]vcpuThread, error) {
	var list []vcpuThread
	err := i.execute(ctx, "x-virtd-cpus", nil, &list)
	if !virterr.Is(err, virterr.OperationUnsupported) {
		return list, err
	}
	var hello struct {
		Threads struct {
			VCPUs []int `json:"vcpus"`
		} `json:"threads"`
	}
	if err := i.execute(ctx, "x-virtd-hello", map[string]int{"version": 1}, &hello); err != nil {
		return nil, err
	}
	for n, thread := range hello.Threads.VCPUs {
		list = append(list, vcpuThread{n, thread})
	}
	return list, nil
}

// hostThread is a vCPU's thread by its id on the host.
type hostThread struct{ vcpu, tid int }

// threads returns the threads of the vCPUs that are there, by number. What the engine says is checked: it is not trusted.
func (i *instance) threads(ctx context.Context) ([]hostThread, error) {
	vcpus, err := i.vcpus(ctx)
	if err != nil {
		return nil, err
	}
	host, err := supervise.HostThreads(i.rec.PID)
	if err != nil {
		return nil, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	list := make([]hostThread, len(vcpus))
	last := -1
	for n, v := range vcpus {
		tid, ok := host[v.Thread]
		if !ok || v.CPU <= last || v.CPU >= domain.MaxVCPUs {
			return nil, virterr.New(virterr.InternalError, "domain '%s' names thread %d for vcpu %d, which it does not have", i.name, v.Thread, v.CPU)
		}
		list[n], last = hostThread{v.CPU, tid}, v.CPU
	}
	return list, nil
}

// VCPUs implements driver.Instance.
func (i *instance) VCPUs(ctx context.Context) ([]driver.VCPU, error) {
	threads, err := i.threads(ctx)
	if err != nil {
		return nil, err
	}
	var list []driver.VCPU
	for _, t := range threads {
		v := driver.VCPU{Number: t.vcpu, Thread: t.tid}
		if v.Time, err = supervise.ThreadTime(i.rec.PID, t.tid); err == nil {
			var s supervise.Stat
			s, err = supervise.ReadStat(i.rec.PID, t.tid)
			v.CPU = s.CPU
		}
		if err == nil {
			v.Affinity, err = affinity(t.tid)
		}
		if err != nil && i.hasVCPU(t.vcpu) {
			return nil, virterr.New(virterr.SystemError, "cannot look at vcpu %d of domain '%s' (thread %d): %w", t.vcpu, i.name, t.tid, err)
		}
		if err == nil { // else it went meanwhile
			list = append(list, v)
		}
	}
	return list, nil
}

func (i *instance) hasVCPU(vcpu int) bool { return slices.Contains(i.definition().OnlineVCPUs(), vcpu) }

// PinVCPU implements driver.Instance.
func (i *instance) PinVCPU(ctx context.Context, vcpu int, cpus []byte) error {
	threads, err := i.threads(ctx)
	if err != nil {
		return err
	}
	for _, t := range threads {
		if t.vcpu == vcpu {
			return i.pin(t.tid, vcpu, cpus)
		}
	}
	return virterr.New(virterr.InvalidArg, "vcpu %d is out of range of live cpu count %d", vcpu, len(threads))
}

func (i *instance) pin(tid, vcpu int, cpus []byte) error {
	if err := setAffinity(tid, cpus); err != nil {
		return virterr.New(virterr.SystemError, "cannot set CPU affinity on process %d (vcpu %d of domain '%s'): %w", tid, vcpu, i.name, virterr.Strerror(err))
	}
	return nil
}

// pinConfigured binds vCPUs as the definition says: those that which accepts.
func (i *instance) pinConfigured(ctx context.Context, which func(vcpu int) bool) error {
	pins := VCPUPins(i.definition())
	if len(pins) == 0 {
		return nil
	}
	threads, err := i.threads(ctx)
	if err != nil {
		return err
	}
	for _, t := range threads {
		if cpus, ok := pins[t.vcpu]; ok && which(t.vcpu) {
			if err := i.pin(t.tid, t.vcpu, bitmap(cpus)); err != nil {
				return err
			}
		}
	}
	return nil
}

// PlugVCPU implements driver.Instance.
func (i *instance) PlugVCPU(ctx context.Context, live *domain.Definition, vcpu int) error {
	i.attachMu.Lock()
	defer i.attachMu.Unlock()
	client, err := i.monitor()
	if err != nil {
		return err
	}
	err = client.Execute(ctx, "x-virtd-plug-cpu", map[string]int{"cpu": vcpu}, nil)
	if err != nil && !i.pluggedAfterAll(vcpu, err) {
		i.catchUpLater(err)
		return i.explain(commandAttach, err)
	}
	i.setDefinition(live)
	return i.pinPlugged(ctx, live, vcpu)
}

// pluggedAfterAll reports whether the engine has a vCPU although no answer came to the command that gave it.
func (i *instance) pluggedAfterAll(vcpu int, err error) bool {
	var refused *qmp.Error
	if errors.As(err, &refused) {
		return false
	}
	ctx, cancel := context.WithTimeout(i.ctx, answerTime)
	defer cancel()
	list, err := i.vcpus(ctx)
	return err == nil && slices.ContainsFunc(list, func(v vcpuThread) bool { return v.CPU == vcpu })
}

// UnplugVCPU implements driver.Instance.
func (i *instance) UnplugVCPU(ctx context.Context, vcpu int) error {
	client, err := i.monitor()
	if err != nil {
		return err
	}
	return i.explain(commandDetach, client.Execute(ctx, "x-virtd-unplug-cpu", map[string]int{"cpu": vcpu}, nil))
}

// vcpuNumber returns the number of the vCPU that an event is about.
func vcpuNumber(device string) (int, bool) {
	digits, ok := strings.CutPrefix(device, "vcpu")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0 && n < domain.MaxVCPUs
}

// vcpuRemoved notes that the engine has a vCPU no more.
func (i *instance) vcpuRemoved(vcpu int) {
	i.recMu.Lock()
	if without, err := i.live.UnplugVCPU(vcpu); err == nil {
		i.live = without
	}
	i.recMu.Unlock()
	i.deliver(driver.VCPURemoved{VCPU: vcpu})
}

// reconcileVCPUs catches up with the vCPUs that came or went while nobody listened, or that virtd gave the engine and ended
// before it noted so. The caller holds attachMu.
func (i *instance) reconcileVCPUs(ctx context.Context) {
	if i.definition().CheckVCPUHotplug() != nil {
		return // nothing comes or goes
	}
	list, err := i.vcpus(ctx)
	if err != nil {
		i.d.log.Warn("an engine does not tell which vCPUs it has", "domain", i.name, "err", err)
		return
	}
	var have []int
	for _, v := range list {
		have = append(have, v.CPU)
	}
	known := i.definition().OnlineVCPUs()
	if len(have) == 0 || slices.Equal(have, known) {
		return
	}
	i.recMu.Lock()
	i.live = i.live.WithVCPUs(have)
	i.recMu.Unlock()
	if err := i.pinConfigured(ctx, func(v int) bool { return !slices.Contains(known, v) }); err != nil {
		i.d.log.Warn("cannot bind a vCPU that came", "domain", i.name, "err", err)
	}
	i.deliver(driver.VCPUsPresent{VCPUs: have})
}
