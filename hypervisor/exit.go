package hypervisor

import "time"

// ExitRecord is what an engine writes as one JSON object to the file Config.ExitRecord, from its start, before it leaves.
// An engine that ends without one crashed.
type ExitRecord struct {
	Reason ExitReason `json:"reason"`
	Detail string     `json:"detail,omitempty"` // one line for people
	Time   time.Time  `json:"time"`
}

// ExitReason is why an engine left.
type ExitReason string

// Reasons for leaving.
const (
	ExitShutdown ExitReason = "shutdown" // the guest powered off
	ExitReboot   ExitReason = "reboot"   // the guest reset, or hit a triple fault, and OnReboot says stop
	ExitPanic    ExitReason = "panic"    // the guest panicked and OnCrash says stop
	ExitQuit     ExitReason = "quit"     // asked through the monitor
	ExitError    ExitReason = "error"    // the engine could not start or go on; Detail says why
)

// ConfigFDFlag is the flag by which virtd tells virtd-vmm the descriptor to read its Config from, as JSON up to the end of
// the file: virtd-vmm --config-fd 9. It comes after the descriptors of Config.Files. The engine does nothing before it
// has read all of it and leaves when it is empty: so an engine whose virtd died in between never runs.
const ConfigFDFlag = "config-fd"
