package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is what engines used, guests included, and the kernel's threads that move packets for them.
func processorTime(engines []*engine) (time.Duration, error) {
	var sum time.Duration
	for _, e := range engines {
		own, err := clock(e.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		kernel, err := vhostTime(e.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += own + kernel
	}
	return sum, nil
}

// clock returns the processor time of all threads of a process. clock_getcpuclockid(3): the clock of another process is made
// of its number and CPUCLOCK_SCHED, 2.
func clock(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// vhostTime returns the processor time of the kernel threads of vhost that belong to a process. From Linux 6.4 on there are
// none: they are threads of the process.
func vhostTime(pid int) (sum time.Duration, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(comm)) != fmt.Sprintf("vhost-%d", pid) {
			continue // most are others, and some have ended
		}
		thread, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return 0, err
		}
		t, err := clock(thread)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}
