package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/driver/kvm/supervise"
	"virtd/virterr"
)

// PinEmulator implements driver.Instance. Threads that the engine makes later inherit it from those that make them, which are
// never vCPUs.
func (i *instance) PinEmulator(ctx context.Context, cpus []byte) error {
	vcpus, err := i.threads(ctx)
	if err != nil {
		return err
	}
	done := map[int]bool{}
	for _, v := range vcpus {
		done[v.tid] = true
	}
	for again := true; again; { // until there is none that was made meanwhile by one whose turn had not come
		again = false
		for _, tid := range i.otherThreads() {
			if done[tid] {
				continue
			}
			done[tid], again = true, true
			if err := setAffinity(tid, cpus); err != nil && !errors.Is(err, unix.ESRCH) {
				return virterr.New(virterr.SystemError, "cannot set CPU affinity on process %d (of domain '%s'): %w", tid, i.name, virterr.Strerror(err))
			}
		}
	}
	return nil
}

// otherThreads are the engine's threads, vCPUs among them, and before Linux 6.4 those of the kernel that vhost has for it, whose
// names tell.
func (i *instance) otherThreads() (tids []int) {
	host, _ := supervise.HostThreads(i.rec.PID) // none: it has ended
	for _, tid := range host {
		tids = append(tids, tid)
	}
	if len(i.vhosts()) == 0 {
		return tids
	}
	// named by the thread that made it the engine's
	owned := map[string]bool{fmt.Sprintf("vhost-%d", i.rec.PID): true}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", i.rec.PID)) // none: it has ended
	for _, task := range tasks {
		owned["vhost-"+task.Name()] = true
	}
	names, _ := filepath.Glob("/proc/[0-9]*/comm") // fails for a bad pattern only
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || !owned[strings.TrimSpace(string(comm))] {
			continue
		}
		dir := filepath.Dir(name)
		if _, err := os.Readlink(dir + "/exe"); !errors.Is(err, os.ErrNotExist) {
			continue // a process that calls itself so
		}
		if tid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids
}

// vhosts are the interfaces whose packets the kernel moves.
func (i *instance) vhosts() (aliases []string) {
	for alias, name := range i.Runtime().NetDrivers {
		if name == "vhost" {
			aliases = append(aliases, alias)
		}
	}
	return aliases
}

// pinEmulatorConfigured binds these threads as a definition says.
func (i *instance) pinEmulatorConfigured(ctx context.Context, live *domain.Definition) error {
	set := live.EmulatorPin()
	if set == "" {
		return nil
	}
	cpus, err := domain.ParseCPUSet(set)
	if err != nil {
		return err
	}
	return i.PinEmulator(ctx, bitmap(cpus))
}

// pinPlugged binds a vCPU that came to a running machine. Its thread has what the one that made it has, which is the emulator's.
func (i *instance) pinPlugged(ctx context.Context, live *domain.Definition, vcpu int) error {
	if _, own := VCPUPins(live)[vcpu]; own || live.EmulatorPin() == "" {
		return i.pinConfigured(ctx, func(v int) bool { return v == vcpu })
	}
	var all []int
	for c := range hostCPUs() {
		all = append(all, c)
	}
	return i.PinVCPU(ctx, vcpu, bitmap(all))
}

// setAffinity binds a thread to host CPUs.
func setAffinity(tid int, cpus []byte) error {
	var set unix.CPUSet
	for c := range 8 * len(cpus) {
		if cpus[c/8]&(1<<(c%8)) != 0 {
			set.Set(c)
		}
	}
	return unix.SchedSetaffinity(tid, &set)
}
