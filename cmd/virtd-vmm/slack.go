package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// timerSlack is how late, in nanoseconds, timers of this process's threads may be. Go's runtime has a thread that looks
// after processors stuck in system calls; whenever a vCPU or queue thread comes out of one, it sleeps 20 us fifty times
// in a row to see what follows. With slack those sleeps end with the clock tick, which takes two of three thread switches
// away from a guest with light traffic. The guest's timers are in the kernel, and the threads that need finer ones
// say so for themselves (those of network queues).
const timerSlack = 10_000_000

// relaxTimers gives all threads of the process that slack. virtd starts engines with it, so that nothing is left to do
// here; an engine started by hand can set it for its other threads if it is privileged, and goes on without if not.
func relaxTimers() {
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || now >= timerSlack {
		return
	}
	// Threads made from here on inherit it.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range threads {
		_ = os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", []byte(strconv.Itoa(timerSlack)), 0)
	}
}
