package manager

// State is a domain's state, with libvirt's numbers (virDomainState).
type State int32

// States of a domain.
const (
	NoState     State = 0
	Running     State = 1
	Blocked     State = 2
	Paused      State = 3
	ShuttingOff State = 4 // VIR_DOMAIN_SHUTDOWN: powered off, the engine is still there
	ShutOff     State = 5
	Crashed     State = 6
	PMSuspended State = 7
)

// Reason says why a domain is in its State; the numbers repeat between states (virDomainRunningReason and so on).
type Reason int32

// Reasons of Running.
const (
	RunningUnknown  Reason = 0
	RunningBooted   Reason = 1
	RunningRestored Reason = 3 // from a saved state
	RunningUnpaused Reason = 5
	RunningUnsaved  Reason = 7 // a save was canceled or failed
	RunningCrashed  Reason = 9 // goes on after a panic
)

// Reasons of Paused.
const (
	PausedUnknown    Reason = 0
	PausedUser       Reason = 1
	PausedSave       Reason = 3 // is being saved
	PausedDump       Reason = 4 // is being dumped
	PausedIOError    Reason = 5
	PausedShutting   Reason = 8
	PausedCrashed    Reason = 10
	PausedStartingUp Reason = 11
)

// Reasons of ShuttingOff.
const (
	ShuttingUnknown Reason = 0
	ShuttingUser    Reason = 1
)

// Reasons of ShutOff.
const (
	ShutOffUnknown   Reason = 0
	ShutOffShutdown  Reason = 1
	ShutOffDestroyed Reason = 2
	ShutOffCrashed   Reason = 3
	ShutOffSaved     Reason = 5
	ShutOffFailed    Reason = 6 // did not start
	ShutOffDaemon    Reason = 8 // virtd could not adopt it
)

// Reasons of Crashed.
const (
	CrashedUnknown  Reason = 0
	CrashedPanicked Reason = 1
)

// active reports whether a domain in this state has an engine.
func (s State) active() bool { return s != ShutOff && s != NoState }

// String returns the state as virsh prints it.
func (s State) String() string {
	names := [...]string{"no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended"}
	if s < 0 || int(s) >= len(names) {
		return "no state"
	}
	return names[s]
}
