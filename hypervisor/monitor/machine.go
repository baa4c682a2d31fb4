package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"
)

// Errors that a Machine returns (wrapped) and that have a QMP class of their own.
var (
	// ErrNotFound: no device of that name.
	ErrNotFound = errors.New("device not found")
	// ErrNotActive: there is no such device, or its guest driver does not use it.
	ErrNotActive = errors.New("device not active")
)

// Machine is what a monitor controls. Its methods are safe for concurrent use and return soon; those that change the
// state wait for the vCPUs to stop.
type Machine interface {
	Name() string
	UUID() string
	// RunState is running, paused, prelaunch, shutdown or crashed, with a reason for people.
	RunState() (state, reason string)
	Pause() error
	Resume() error
	PowerDown() error
	// SetPoweroffAction says whether the guest's power-offs reset the machine in place or end it, which is the default.
	SetPoweroffAction(reset bool)
	Reset() error
	NMI() error
	// Quit ends the machine; it returns before the process leaves.
	Quit(reason string)
	CPUs() []CPU

	// Balloon returns the bytes that the guest has, ErrNotActive without a balloon.
	Balloon() (actual uint64, err error)
	SetBalloon(bytes uint64) error
	BalloonStats() (BalloonStats, error)
	SetBalloonStatsPeriod(seconds int) error

	Disks() []Disk
	ResizeDisk(id string, bytes uint64) error
	// SetThrottle gives a disk, and its group, the limits of a fragment of hypervisor.Config; null ends them.
	SetThrottle(id string, throttle json.RawMessage) error
	// SendKey presses keys of Linux' numbering at the first keyboard and releases them after hold. It does not wait for the
	// guest.
	SendKey(keys []uint16, hold time.Duration) error
	NICs() []NIC
	SetLink(id string, up bool) error
	// RxFilters returns what the drivers of network devices want to receive: of the device with that name, or of all.
	RxFilters(id string) ([]RxFilter, error)
	// ReconnectNIC gives a network device on a stream socket another socket, which is the machine's from then on, also when
	// it fails.
	ReconnectNIC(id string, fd int) error
	// VhostUsers returns the devices whose queues other processes serve. ReconnectVhostUser gives one of them that lost its
	// process the socket of another, which is the machine's from then on, also when it fails.
	VhostUsers() []VhostUser
	ReconnectVhostUser(id string, fd int) error
	Chardevs() []Chardev
	// StartDirtyRate begins to measure how fast the guest dirties its memory and does not wait; DirtyRate tells how that went.
	StartDirtyRate(r DirtyRateRequest) error
	DirtyRate() DirtyRate
	PCI() []PCIFunction

	// PlugCPU gives the machine a vCPU by number and tells the guest; its thread is there when it returns. UnplugCPU asks
	// the guest to let one go and does not wait: DEVICE_DELETED for vcpuN tells when it did.
	PlugCPU(cpu int) error
	UnplugCPU(cpu int) error

	// Save halts the guest and writes its state to f, which it takes over, until ctx ends; the guest stands still when it
	// succeeded, and goes on when it failed. CommitSave keeps the state for good; AbandonSave makes it void and lets the
	// guest go on, unless it was committed. Dump writes a core file to f, which it takes over. Both take long; Job tells
	// how far they are and CancelJob ends them early.
	Save(ctx context.Context, f *os.File, as Described) error
	CommitSave() error
	AbandonSave() error
	Dump(ctx context.Context, f *os.File, live bool) error
	Job() Job
	CancelJob()
	// Attach gives the running machine the device that a fragment of hypervisor.Config describes. files are the
	// descriptors it names; they are the machine's from then on, also when it fails. Detach asks the guest to let go of
	// a device and does not wait: the event DEVICE_DELETED tells when it did. Devices lists the names of the devices.
	Attach(device json.RawMessage, files map[string]int) error
	Detach(id string) error
	Devices() []string
}

// Described is the part of a machine that can change while it runs, as whoever saves it believes it to be. Nil is no belief.
type Described struct {
	Devices []string `json:"devices"` // IDs
	CPUs    []int    `json:"cpus"`    // numbers, ascending
}

// CPU is one vCPU.
type CPU struct {
	Index    int
	APICID   uint32
	ThreadID int
	Exits    uint64
}

// BalloonStats is what the guest last told about its memory, in bytes but for the fault and huge page counts; a value that it did not
// tell is absent.
type BalloonStats struct {
	Actual     uint64            `json:"actual"`
	Stats      map[string]uint64 `json:"stats"`
	LastUpdate int64             `json:"last-update"` // seconds since 1970, 0 is never
}

// Disk is a block device.
type Disk struct {
	ID       string
	ReadOnly bool
	Format   string
	Size     uint64 // bytes
	Mode     string // how requests are executed: io_uring, threads
	Stats    DiskStats
}

// DiskStats counts what a disk did since the engine started; times are sums of each request's, in nanoseconds.
type DiskStats struct {
	ReadBytes  uint64 `json:"rd-bytes"`
	ReadOps    uint64 `json:"rd-ops"`
	ReadNS     uint64 `json:"rd-ns"`
	WriteBytes uint64 `json:"wr-bytes"`
	WriteOps   uint64 `json:"wr-ops"`
	WriteNS    uint64 `json:"wr-ns"`
	FlushOps   uint64 `json:"flush-ops"`
	FlushNS    uint64 `json:"flush-ns"`
	Errors     uint64 `json:"errors"`
	Size       uint64 `json:"size"` // bytes a guest sees
}

// NIC is a network device.
type NIC struct {
	ID     string
	MAC    string
	Driver string // who moves packets: qemu or vhost; "" for vhost-user
	// Refused is why that is not who was asked for; "" if it is.
	Refused string
	Queues  int // pairs
	Up      bool
	Stats   *NICStats // nil for vhost, where the host's tap counts, and vhost-user
}

// VhostUser is a device whose queues another process serves.
type VhostUser struct {
	ID        string `json:"id"`
	Connected bool   `json:"connected"`
}

// RxFilter is what the driver of a network device wants to receive.
type RxFilter struct {
	Name string
	Receives
}

// Receives is the filter of an RxFilter: virtio/net's Filter.
type Receives struct {
	MAC                                [6]byte
	Promiscuous                        bool
	AllMulticast                       bool
	AllUnicast                         bool
	NoMulticast                        bool
	NoUnicast                          bool
	NoBroadcast                        bool
	Unicast, Multicast                 [][6]byte
	UnicastOverflow, MulticastOverflow bool
}

// NICStats counts packets as the guest sees them: rx is what it received.
type NICStats struct {
	RxBytes   uint64 `json:"rx-bytes"`
	RxPackets uint64 `json:"rx-packets"`
	RxDropped uint64 `json:"rx-dropped"`
	TxBytes   uint64 `json:"tx-bytes"`
	TxPackets uint64 `json:"tx-packets"`
	TxDropped uint64 `json:"tx-dropped"`
}

// Chardev is the host side of a serial port or console.
type Chardev struct {
	ID        string
	Type      string
	Connected bool
}

// PCIFunction is one function for info pci.
type PCIFunction struct {
	Address        string
	Vendor, Device uint16
	Class          uint32
}

// Job is the save or dump in progress. Sizes are bytes.
type Job struct {
	Kind      string `json:"kind"` // save, dump, or "" for none
	Elapsed   int64  `json:"elapsed-ms"`
	Total     uint64 `json:"total"`     // of RAM
	Processed uint64 `json:"processed"` // of RAM, looked at
	Written   uint64 `json:"written"`   // that left
}
