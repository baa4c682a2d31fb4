package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"virtd/bench/ab"
)

// mib is the unit of memory results.
const mib = 1 << 20

// idleGuest boots a guest that does nothing behind its shell prompt, on huge pages: the kernel then counts guest RAM
// apart from all other memory of the engine.
func (h host) idleGuest() guest {
	return guest{kernel: filepath.Join(h.images, "6.1/vmlinux"), initrd: filepath.Join(h.images, "6.1/initrd"), memory: 128, huge: true}
}

func atShell(start func(guest) (*engine, error), g guest) (*engine, error) {
	e, err := start(g)
	if err != nil {
		return nil, err
	}
	if err := e.interactive(); err != nil {
		e.kill()
		return nil, err
	}
	return e, nil
}

// benchMemory measures what an engine with an idle guest holds beyond guest RAM.
func benchMemory(h host) ([]ab.Result, error) {
	// pages of a program in tmpfs count as dirty
	h.vmm = h.onDisk
	sampler := func(start func(guest) (*engine, error)) ab.Sampler {
		return func() ([]float64, error) {
			e, err := atShell(start, h.idleGuest())
			if err != nil {
				return nil, err
			}
			defer e.kill()
			time.Sleep(2 * time.Second)
			m, err := rollup(e.cmd.Process.Pid)
			return []float64{m["Pss"] / mib, m["Private_Dirty"] / mib}, err
		}
	}
	return ab.Compare(h.rounds, []ab.Measure{
		{Name: "engine memory beyond guest RAM, PSS", Unit: "MiB", Better: ab.Lower, ValueBound: 14},
		{Name: "engine memory beyond guest RAM, private dirty", Unit: "MiB", Better: ab.Lower, ValueBound: 8},
	}, sampler(h.start), sampler(h.startPeer))
}

// rollup returns what smaps does of an engine whose guest RAM is on huge pages, which are not in Pss and Private_Dirty.
func rollup(pid int) (map[string]float64, error) {
	out, err := smaps(pid)
	if err == nil && out["Private_Hugetlb"]+out["Shared_Hugetlb"] == 0 {
		err = fmt.Errorf("smaps_rollup of %d has no guest RAM on huge pages: %v", pid, out)
	}
	return out, err
}

// smaps returns the sums of /proc/PID/smaps_rollup in bytes.
func smaps(pid int) (map[string]float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		v, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return nil, err
		}
		out[strings.TrimSuffix(f[0], ":")] = v * 1024
	}
	if out["Pss"] == 0 {
		return nil, fmt.Errorf("smaps_rollup of %d tells nothing: %s", pid, b)
	}
	return out, nil
}

// benchIdle counts how often threads other than vCPUs wake in an engine whose guest does nothing.
func benchIdle(h host) ([]ab.Result, error) {
	const period = 10 * time.Second
	sampler := func(start func(guest) (*engine, error)) ab.Sampler {
		return func() ([]float64, error) {
			e, err := atShell(start, h.idleGuest())
			if err != nil {
				return nil, err
			}
			defer e.kill()
			time.Sleep(3 * time.Second) // the guest's own start-up work ends
			before, err := switches(e.cmd.Process.Pid)
			if err != nil {
				return nil, err
			}
			from := time.Now()
			time.Sleep(period)
			after, err := switches(e.cmd.Process.Pid)
			if err != nil {
				return nil, err
			}
			n := 0.0
			for tid, v := range after {
				n += v - before[tid]
			}
			return []float64{n / time.Since(from).Seconds()}, nil
		}
	}
	return ab.Compare(h.rounds, []ab.Measure{
		{Name: "idle guest: wake-ups of threads other than vCPUs", Unit: "1/s", Better: ab.Lower, ValueBound: 2},
	}, sampler(h.start), sampler(h.startPeer))
}

// switches returns how often each thread that is not a vCPU has slept.
func switches(pid int) (map[string]float64, error) {
	out := map[string]float64{}
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	entries, err := os.ReadDir(tasks)
	if err != nil {
		return nil, err
	}
	vcpus := 0
	for _, t := range entries {
		// syscall 16 is ioctl, its second argument KVM_RUN
		call, err := os.ReadFile(filepath.Join(tasks, t.Name(), "syscall"))
		if err != nil {
			return nil, err
		}
		comm, err := os.ReadFile(filepath.Join(tasks, t.Name(), "comm"))
		if err != nil {
			return nil, err
		}
		f := strings.Fields(string(call))
		if len(f) > 2 && f[0] == "16" && f[2] == kvmRun || strings.HasPrefix(string(comm), "CPU 0/KVM") {
			vcpus++
			continue
		}
		if out[t.Name()], err = sleeps(pid, t.Name()); err != nil {
			return nil, err
		}
	}
	if vcpus != 1 {
		return nil, fmt.Errorf("process %d has %d threads in KVM_RUN, not the 1 of an idle guest", pid, vcpus)
	}
	return out, nil
}

// sleeps returns how often a thread has slept.
func sleeps(pid int, tid string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, tid))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "voluntary_ctxt_switches:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, fmt.Errorf("no voluntary_ctxt_switches of thread %s of process %d", tid, pid)
}

// kvmRun is the request number of KVM_RUN as /proc/PID/task/TID/syscall prints it.
const kvmRun = "0x" + "ae80"
