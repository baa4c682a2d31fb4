package driver

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/google/uuid"

	"virtd/domain"
)

// Driver starts engines. All methods are safe for concurrent use. Errors a user can cause are *virterr.Error.
type Driver interface {
	domain.HostCPU

	// Start opens what the domain needs of the host and starts its engine. The returned Instance has not run a guest
	// instruction: Cont does that. On an error nothing is left behind.
	Start(ctx context.Context, req Request) (Instance, error)

	// Adopt connects to the engine that an Instance of an earlier process described with Record. It fails with a *Gone
	// when that engine has ended meanwhile; everything the driver kept for it is then cleaned up.
	Adopt(ctx context.Context, record json.RawMessage, live *domain.Definition) (Instance, error)

	// Tidy removes what starts left behind that the end of an earlier process cut short. running are the UUIDs of the
	// domains that have an engine. It is called before the first Start.
	Tidy(running []uuid.UUID) error
}

// Request is a domain to start.
type Request struct {
	Live *domain.Definition // with id and aliases (domain.Definition.Start)

	// Record is called once the engine process exists and before it opens or runs anything, with what Adopt needs. It
	// makes the record durable; its error ends the start. So there is never an engine that nobody knows of.
	Record func(record json.RawMessage) error

	// Incoming is the state of a machine to go on with, instead of booting: what Instance.Save wrote, at the file's
	// position. It stays the caller's. An engine that cannot take it over does not start.
	Incoming *os.File
}

// AttachRequest is a device for a running machine.
type AttachRequest struct {
	Live  *domain.Definition // with the device
	Alias string             // of the device

	// Record is called once the host resources of the device are there and before the engine gets it, with what Adopt needs
	// from now on and what the host gave the device. It makes both durable; its error undoes the attachment. So there is
	// never a device that nobody knows of: one that is recorded and that the engine does not have is dropped at adoption.
	Record func(record json.RawMessage, given domain.Runtime) error
}

// Instance is one running engine. All methods are safe for concurrent use, and each waits no longer than its context.
// After the engine has ended they fail with OperationInvalid, except Close.
type Instance interface {
	// Listen sets who gets the events, once. The handler is called by one goroutine at a time, in the engine's order;
	// events from before Listen come first. An event that a command caused has been handled when that command returns.
	// Exit is the last one. The handler must not call methods of the Instance that wait for the engine.
	Listen(handler func(Event))

	// Record returns what Adopt of a later process needs.
	Record() json.RawMessage
	// Runtime returns what the host gave the domain, by alias.
	Runtime() domain.Runtime
	// PID returns the engine's process id in this process's namespace, 0 if there is no process.
	PID() int
	// Warnings are what the administrator should know: protection that this host does not offer, one sentence each.
	Warnings() []string

	// Status asks the engine what the machine does.
	Status(ctx context.Context) (Status, error)
	// Cont lets the vCPUs run, Stop halts them; both return when it is so.
	Cont(ctx context.Context) error
	Stop(ctx context.Context) error
	// Powerdown presses the power button.
	Powerdown(ctx context.Context) error
	// Reset presses the reset button.
	Reset(ctx context.Context) error
	// SetPoweroffAction changes what the next guest-initiated power-off does: reset in place, or stop.
	// OperationUnsupported if the engine cannot.
	SetPoweroffAction(ctx context.Context, reset bool) error
	// Quit asks the engine to flush and leave. The Exit event follows.
	Quit(ctx context.Context) error
	// Kill ends the engine process by force. The Exit event follows.
	Kill() error
	// Close forgets the engine and leaves it running. No event follows.
	Close()

	// SetBalloon asks the guest to keep that many bytes of RAM.
	SetBalloon(ctx context.Context, bytes uint64) error
	// MemoryStats returns the balloon's view of the guest's memory.
	MemoryStats(ctx context.Context) (MemoryStats, error)
	// SetStatsPeriod makes the balloon ask the guest for statistics every so many seconds; 0 is on demand.
	SetStatsPeriod(ctx context.Context, seconds int) error

	// Attach gives the running machine a device and tells the guest. On an error nothing is left behind, unless the engine
	// stopped answering: then it may have the device.
	Attach(ctx context.Context, req AttachRequest) error
	// Detach asks the guest to let go of the device with that alias and does not wait. DeviceRemoved follows when it did,
	// which may be never; DeviceKept when it says that it will not.
	Detach(ctx context.Context, alias string) error

	// UpdateInterface makes the host's end of the interface with that alias what next says: its bridge, VLANs, isolation,
	// rates and filter. On an error it is as it was.
	UpdateInterface(ctx context.Context, alias string, next *domain.Definition) error

	// PlugVCPU gives the running machine a vCPU that it does not have, by number, tells the guest, and binds it to host CPUs
	// as live, the definition with that vCPU, says. The guest decides when it uses it. OperationUnsupported if the engine
	// cannot. UnplugVCPU asks the guest to let one go and does not wait: VCPURemoved follows when it did, which may be
	// never; VCPUKept when it says that it will not.
	PlugVCPU(ctx context.Context, live *domain.Definition, vcpu int) error
	UnplugVCPU(ctx context.Context, vcpu int) error

	// ResizeDisk gives the disk with that alias another size, and its image too; SetLink plugs an interface's cable in or
	// pulls it; InjectNMI interrupts the guest as a dump button does.
	ResizeDisk(ctx context.Context, alias string, bytes uint64) error
	SetLink(ctx context.Context, alias string, up bool) error
	InjectNMI(ctx context.Context) error
	// SendKey presses keys at the first keyboard, in their order, and releases them after hold. Keys are numbered as Linux
	// does. It does not wait for the guest.
	SendKey(ctx context.Context, keys []uint16, hold time.Duration) error
	// SetIOTune replaces the limits of the disk with that alias, and of all disks of the group that it has from now on.
	// OperationUnsupported if the engine has none.
	SetIOTune(ctx context.Context, alias string, t domain.IOTune) error

	// StartDirtyRate begins to measure how fast the guest dirties its memory, over a period of whole seconds, and does not
	// wait: DirtyRate tells how that went. OperationUnsupported if the engine cannot.
	StartDirtyRate(ctx context.Context, period time.Duration, mode DirtyRateMode) error
	DirtyRate(ctx context.Context) (DirtyRate, error)

	// Save halts the guest and writes its state to f, from f's position on; f stays the caller's. It takes long. When it
	// fails, or ctx ends, the guest goes on as before; else it stands still for the Saved that is returned. live is the
	// definition that is kept with the state: it fails when the machine has other devices or vCPUs that come and go,
	// because its guest let one go meanwhile.
	Save(ctx context.Context, f *os.File, live *domain.Definition) (Saved, error)
	// Dump writes an ELF core file of the guest to f, which is empty and stays the caller's. The guest is halted
	// meanwhile; with live only for a moment. It takes long; when ctx ends it fails and the guest goes on.
	Dump(ctx context.Context, f *os.File, live bool) error
	// Progress returns how far the Save or Dump under way is.
	Progress(ctx context.Context) (Progress, error)

	// BlockStats returns counters by disk alias, NetStats by interface alias.
	BlockStats(ctx context.Context) (map[string]BlockStats, error)
	NetStats(ctx context.Context) (map[string]NetStats, error)

	// CPUTime returns the processor time the whole engine used; VCPUs returns each vCPU's that is there, by number.
	CPUTime() (CPUTime, error)
	VCPUs(ctx context.Context) ([]VCPU, error)
	// PinVCPU binds a vCPU's thread to host CPUs: bit i%8 of byte i/8 of cpus is CPU i.
	PinVCPU(ctx context.Context, vcpu int, cpus []byte) error
	// PinEmulator does the same for all other threads of the engine, and for those of the kernel that move packets for it.
	PinEmulator(ctx context.Context, cpus []byte) error

	// Monitor passes a command to the engine's monitor: one QMP object, or a human monitor line. The answer is the
	// QMP reply object, or the line's output.
	Monitor(ctx context.Context, command string, hmp bool) (string, error)
	// OpenConsole connects to the host side of the serial port or console with that alias.
	OpenConsole(alias string) (io.ReadWriteCloser, error)
}

// Saved is a guest that stands still, whose whole state is written. What was written is worth something only until the
// guest goes on: the engine makes it void before. Exactly one of the methods is called.
type Saved interface {
	// Quit ends the engine and leaves the state as the guest's last; the Exit event with SavedDetail follows. When it
	// fails the guest may stand still or run, and the state may be void.
	Quit(ctx context.Context) error
	// Resume makes the state void and lets the guest go on as before it was saved. That the engine loses its client does
	// the same, so that nothing is lost when this process ends.
	Resume(ctx context.Context) error
}

// SavedDetail is the Detail of the exit, with reason ExitQuit, of an engine whose guest was saved.
const SavedDetail = "saved"

// Reasons of Stopped for what Save and Dump do.
const (
	StoppedForSave = "save"
	StoppedForDump = "dump"
)

// Progress is how far a Save or Dump is. Sizes are bytes; Total is the guest's RAM, Processed what of it was looked at,
// Written what left.
type Progress struct {
	Total, Processed, Written uint64
}

// Status is what the machine does.
type Status struct {
	State  MachineState
	Reason string // the engine's word for why; "" if it has none
}

// MachineState is what the machine does.
type MachineState string

// States of a machine.
const (
	MachineRunning  MachineState = "running"
	MachinePaused   MachineState = "paused"
	MachineShutdown MachineState = "shutdown" // powered off, kept by action preserve
	MachineCrashed  MachineState = "crashed"  // the guest panicked, kept by action preserve
)

// MemoryStats is the guest's memory as its balloon driver tells. Sizes are bytes. Guest lacks the names the guest does
// not send.
type MemoryStats struct {
	Actual     uint64    // RAM minus balloon
	RSS        uint64    // resident memory of the engine process
	LastUpdate time.Time // of Guest; zero if the guest never told
	Guest      map[MemoryStat]uint64
}

// MemoryStat names a value of the virtio balloon's statistics queue.
type MemoryStat string

// The statistics of virtio 1.2, 5.5.6.4.
const (
	StatSwapIn      MemoryStat = "swap-in"
	StatSwapOut     MemoryStat = "swap-out"
	StatMajorFaults MemoryStat = "major-faults"
	StatMinorFaults MemoryStat = "minor-faults"
	StatFree        MemoryStat = "free"
	StatTotal       MemoryStat = "total"
	StatAvailable   MemoryStat = "available"
	StatDiskCaches  MemoryStat = "disk-caches"
	StatHugeAlloc   MemoryStat = "hugetlb-allocations"
	StatHugeFail    MemoryStat = "hugetlb-failures"
)

// BlockStats are the counters of one disk since its engine started.
type BlockStats struct {
	ReadBytes, ReadOps   uint64
	WriteBytes, WriteOps uint64
	FlushOps             uint64
	ReadTime, WriteTime  time.Duration
	FlushTime            time.Duration
	Errors               uint64
	Allocation           uint64 // bytes the image occupies on the host
	Capacity             uint64 // bytes the guest sees
	Physical             uint64 // length of the image file or device
}

// NetStats are the counters of one interface as the guest sees it.
type NetStats struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// CPUTime is processor time.
type CPUTime struct{ Total, User, System time.Duration }

// VCPU is one virtual processor and its thread.
type VCPU struct {
	Number   int
	Thread   int           // thread id on the host
	Time     time.Duration // processor time of the thread, guest time included
	CPU      int           // host CPU it ran on last
	Affinity []byte        // host CPUs it may run on, as PinVCPU
}
