package supervise

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// engineTimerSlack is how late, in nanoseconds, timers of an engine's threads may be. Without it the Go runtime's
// supervising thread sleeps 20 us fifty times in a row whenever a vCPU or queue thread leaves a system call.
const engineTimerSlack = 10_000_000

// relaxTimers sets the slack on the calling thread, from which a process started now inherits it for all its threads.
// The function returned puts it back.
func relaxTimers() func() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, engineTimerSlack, 0, 0, 0)
	return func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // 0 is the default
		runtime.UnlockOSThread()
	}
}
