package driver

import (
	"encoding/json"
	"fmt"
	"time"
)

// Event is what an engine tells. The concrete type says which.
type Event interface{ event() }

// The events of an engine.
type (
	// Stopped says that the vCPUs halted.
	Stopped struct{ Reason string }
	// Resumed says that the vCPUs run.
	Resumed struct{}
	// Reset says that the machine was reset in place.
	Reset struct{ Guest bool }
	// Powerdown says that the power button was pressed.
	Powerdown struct{}
	// Shutdown says that the machine is powering off; what follows is the configured action.
	Shutdown struct {
		Guest  bool
		Reason string
	}
	// Panicked says that the guest reported a panic; Action is what the engine does about it.
	Panicked struct{ Action string }
	// BalloonChanged gives the RAM the guest has now.
	BalloonChanged struct{ Actual uint64 }
	// DeviceRemoved says that a device is gone from the machine and its host resources are released: the guest let go of
	// it, asked to or not, or the engine turned out not to have it.
	DeviceRemoved struct{ Alias string }
	// DeviceKept says that the guest refused to let go of a device.
	DeviceKept struct{ Alias string }
	// VCPURemoved says that a vCPU is gone from the machine: the guest let go of it, asked to or not.
	VCPURemoved struct{ VCPU int }
	// VCPUKept says that the guest refused to let go of a vCPU.
	VCPUKept struct{ VCPU int }
	// VCPUsPresent gives the numbers of all vCPUs that are there, where that turned out not to be what was known.
	VCPUsPresent struct{ VCPUs []int }
	// InterfaceBackend says who moves the packets of an interface from now on: vhost or qemu.
	InterfaceBackend struct{ Alias, Driver string }
	// IOFailed says that a disk request failed on the host.
	IOFailed struct {
		Alias  string
		Write  bool
		Reason string // "enospc" where the host has no space left, else the text of its error
	}
	// MonitorEvent is any monitor event as it came, for clients that ask for the engine's own events. It accompanies
	// the typed one.
	MonitorEvent struct {
		Name string
		Time time.Time
		Data json.RawMessage
	}
	// Exited says that the engine process has ended and its host resources are released. It is the last event.
	Exited struct{ Exit Exit }
)

func (Stopped) event()          {}
func (Resumed) event()          {}
func (Reset) event()            {}
func (Powerdown) event()        {}
func (Shutdown) event()         {}
func (Panicked) event()         {}
func (BalloonChanged) event()   {}
func (DeviceRemoved) event()    {}
func (DeviceKept) event()       {}
func (VCPURemoved) event()      {}
func (VCPUKept) event()         {}
func (VCPUsPresent) event()     {}
func (InterfaceBackend) event() {}
func (IOFailed) event()         {}
func (MonitorEvent) event()     {}
func (Exited) event()           {}

// Exit is why an engine ended.
type Exit struct {
	Reason ExitReason
	Detail string // for the log and domstate; "" if there is nothing to add
}

// ExitReason is why an engine ended.
type ExitReason string

// Reasons of an exit. The first five are the engine's own words in its exit record; the others are found by virtd.
const (
	ExitShutdown ExitReason = "shutdown" // the guest powered off
	ExitReboot   ExitReason = "reboot"   // the guest reset and the action says stop
	ExitPanic    ExitReason = "panic"    // the guest panicked and the action says stop
	ExitQuit     ExitReason = "quit"     // asked through the monitor
	ExitError    ExitReason = "error"    // the engine could not go on; Detail says why
	ExitKilled   ExitReason = "killed"   // by Kill
	ExitCrashed  ExitReason = "crashed"  // no record: the process died
	ExitOOM      ExitReason = "oom"      // no record, and the host's kernel counted an out-of-memory kill
)

// String returns the reason with its detail.
func (e Exit) String() string {
	if e.Detail == "" {
		return string(e.Reason)
	}
	return fmt.Sprintf("%s: %s", e.Reason, e.Detail)
}

// Gone is Adopt's error for an engine that has ended.
type Gone struct{ Exit Exit }

// Error implements error.
func (g *Gone) Error() string { return "the engine has ended: " + g.Exit.String() }
