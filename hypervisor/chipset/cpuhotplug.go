package chipset

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
)

// The CPU hotplug register block, by which the guest's ACPI methods learn of processors that come and are asked to go,
// and by which they let one go: the modern interface of QEMU's docs/specs/acpi_cpu_hotplug. All registers but the
// selector are about the processor that it names. Accesses of other widths than a register's read zero and do nothing.
const (
	CPUHotplugPort  = 0x0cd8 // first port, on both boards
	CPUHotplugPorts = 0x0c

	CPUHotplugSelector = 0x0 // 32 bits, write-only; reads are the upper half of the architecture's ID, which is 0
	CPUHotplugFlags    = 0x4 // 8 bits
	CPUHotplugCommand  = 0x5 // 8 bits, write-only
	CPUHotplugData     = 0x8 // 32 bits, what it is depends on the last command
)

// Bits of CPUHotplugFlags. Writing Inserting or Removing clears it.
const (
	CPUFlagEnabled   = 1 << 0 // the processor is there
	CPUFlagInserting = 1 << 1 // it came, and the guest has not heard of it
	CPUFlagRemoving  = 1 << 2 // it is asked to go, and the guest has not heard of that
	CPUFlagEject     = 1 << 3 // written: lets it go
)

// Commands.
const (
	CPUCommandNext      = 0 // selects the next processor with Inserting or Removing; Data reads its number
	CPUCommandOSTEvent  = 1 // Data takes the event that _OST is about
	CPUCommandOSTStatus = 2 // Data takes the status of _OST
	CPUCommandArchID    = 3 // Data reads the APIC ID
)

// What _OST reports (ACPI 6.4, 6.3.5): the event, and the statuses that are no refusal.
const (
	ostEjectRequest    = 3
	ostSuccess         = 0
	ostEjectInProgress = 0x84
)

// CPUHotplugConfig is what the block tells the machine. The functions are called by vCPU threads, without a lock of the
// block's.
type CPUHotplugConfig struct {
	// APICIDs are those of all processors that the machine can have, by number. The first one is always there.
	APICIDs []uint32
	// Notify raises the general purpose event that makes the guest look.
	Notify func()
	// Ejected is called when the guest lets a processor go, whether asked to or not.
	Ejected func(cpu int)
	// Refused is called when the guest says that it will not let go of a processor that was asked to go.
	Refused func(cpu int, status uint32)
}

// CPUHotplug is the CPU hotplug register block. It implements bus.Device, and its methods are safe for concurrent use.
type CPUHotplug struct {
	cfg CPUHotplugConfig

	mu   sync.Mutex
	regs cpuHotplugRegs
}

type cpuHotplugRegs struct {
	Version  int    `json:"version"`
	Selector uint32 `json:"selector"`
	Command  uint8  `json:"command"`
	OSTEvent uint32 `json:"ostEvent"`
	CPUs     []int  `json:"cpus"` // flags by number, with cpuRequested
}

// cpuRequested is a flag of our own: asked to go, and neither gone nor refused.
const cpuRequested = 1 << 8

// NewCPUHotplug returns the block of a machine whose first processor is there.
func NewCPUHotplug(c CPUHotplugConfig) *CPUHotplug {
	h := &CPUHotplug{cfg: c, regs: cpuHotplugRegs{Version: 1, CPUs: make([]int, len(c.APICIDs))}}
	h.Occupy(0)
	return h
}

// Can reports whether a processor of that number can come and go.
func (h *CPUHotplug) Can(cpu int) bool { return cpu > 0 && cpu < len(h.regs.CPUs) }

// Occupy notes a processor that is there without the guest having to be told.
func (h *CPUHotplug) Occupy(cpu int) { h.set(cpu, CPUFlagEnabled) }

// Vacate notes that a processor is gone without the guest's doing. The first one does not go.
func (h *CPUHotplug) Vacate(cpu int) {
	if h.Can(cpu) {
		h.set(cpu, 0)
	}
}

func (h *CPUHotplug) set(cpu, flags int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.regs.CPUs[cpu] = flags
}

// Plug adds a processor and tells the guest.
func (h *CPUHotplug) Plug(cpu int) {
	if !h.Can(cpu) {
		return
	}
	h.set(cpu, CPUFlagEnabled|CPUFlagInserting)
	h.cfg.Notify()
}

// Request asks the guest to let a processor go. Ejected follows when it does.
func (h *CPUHotplug) Request(cpu int) {
	if !h.Can(cpu) {
		return
	}
	h.mu.Lock()
	there := h.regs.CPUs[cpu]&CPUFlagEnabled != 0
	if there {
		h.regs.CPUs[cpu] |= CPUFlagRemoving | cpuRequested
	}
	h.mu.Unlock()
	if there {
		h.cfg.Notify()
	}
}

// Requested returns the processors that were asked to go and have not gone. A machine that is reset lets them go: the
// guest that used them is no more.
func (h *CPUHotplug) Requested() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []int
	for cpu, flags := range h.regs.CPUs {
		if flags&cpuRequested != 0 {
			out = append(out, cpu)
		}
	}
	return out
}

// Reset forgets what the guest was to be told: a new one enumerates. The selector stays, as the specification has it.
func (h *CPUHotplug) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for cpu := range h.regs.CPUs {
		h.regs.CPUs[cpu] &= CPUFlagEnabled
	}
}

// selected returns the flags of the processor that the selector names, nil when there cannot be one. The caller holds mu.
func (h *CPUHotplug) selected() *int {
	if uint64(h.regs.Selector) >= uint64(len(h.regs.CPUs)) {
		return nil
	}
	return &h.regs.CPUs[h.regs.Selector]
}

// Read implements bus.Device.
func (h *CPUHotplug) Read(offset uint64, p []byte) {
	clear(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	flags := h.selected()
	switch {
	case flags == nil:
	case offset == CPUHotplugFlags && len(p) == 1:
		p[0] = uint8(*flags & (CPUFlagEnabled | CPUFlagInserting | CPUFlagRemoving))
	case offset == CPUHotplugData && len(p) == 4:
		switch h.regs.Command {
		case CPUCommandNext:
			binary.LittleEndian.PutUint32(p, h.regs.Selector)
		case CPUCommandArchID:
			binary.LittleEndian.PutUint32(p, h.cfg.APICIDs[h.regs.Selector])
		}
	}
}

// Write implements bus.Device.
func (h *CPUHotplug) Write(offset uint64, p []byte) {
	ejected, refused := -1, -1
	var status uint32
	h.mu.Lock()
	cpu, flags := int(h.regs.Selector), h.selected()
	switch {
	case offset == CPUHotplugSelector && len(p) == 4:
		h.regs.Selector = binary.LittleEndian.Uint32(p)
	case flags == nil:
	case offset == CPUHotplugFlags && len(p) == 1:
		if h.control(flags, p[0]) {
			ejected = cpu
		}
	case offset == CPUHotplugCommand && len(p) == 1:
		h.regs.Command = p[0]
		if p[0] == CPUCommandNext {
			h.next()
		}
	case offset == CPUHotplugData && len(p) == 4:
		status = binary.LittleEndian.Uint32(p)
		if h.data(flags, status) {
			refused = cpu
		}
	}
	h.mu.Unlock()
	if ejected >= 0 {
		h.cfg.Ejected(ejected)
	}
	if refused >= 0 {
		h.cfg.Refused(refused, status)
	}
}

// control is a write of CPUHotplugFlags. It reports whether the processor goes. The caller holds mu.
func (h *CPUHotplug) control(flags *int, v uint8) bool {
	*flags &^= int(v) & (CPUFlagInserting | CPUFlagRemoving)
	if v&CPUFlagEject == 0 || *flags&CPUFlagEnabled == 0 || h.regs.Selector == 0 {
		return false
	}
	*flags = 0
	return true
}

// next selects the next processor with an event, beginning with the one that is selected. The caller holds mu.
func (h *CPUHotplug) next() {
	n := uint32(len(h.regs.CPUs))
	for i := range n {
		if cpu := (h.regs.Selector + i) % n; h.regs.CPUs[cpu]&(CPUFlagInserting|CPUFlagRemoving) != 0 {
			h.regs.Selector = cpu
			return
		}
	}
}

// data is a write of CPUHotplugData. It reports whether it says that the guest keeps the processor. The caller holds mu.
func (h *CPUHotplug) data(flags *int, v uint32) bool {
	switch h.regs.Command {
	case CPUCommandOSTEvent:
		h.regs.OSTEvent = v
	case CPUCommandOSTStatus:
		if h.regs.OSTEvent == ostEjectRequest && v != ostSuccess && v != ostEjectInProgress && *flags&cpuRequested != 0 {
			*flags &^= cpuRequested
			return true
		}
	}
	return false
}

// Save returns the block's state.
func (h *CPUHotplug) Save() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return json.Marshal(h.regs)
}

// Restore sets what Save returned. The processors that are there must be those that the block knows of.
func (h *CPUHotplug) Restore(state []byte) error {
	var r cpuHotplugRegs
	if err := json.Unmarshal(state, &r); err != nil {
		return fmt.Errorf("restore CPU hotplug: %w", err)
	}
	if r.Version != 1 {
		return fmt.Errorf("restore CPU hotplug: version %d is not one of ours", r.Version)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(r.CPUs) != len(h.regs.CPUs) {
		return fmt.Errorf("restore CPU hotplug: %d processors, this machine can have %d", len(r.CPUs), len(h.regs.CPUs))
	}
	const known = CPUFlagEnabled | CPUFlagInserting | CPUFlagRemoving | cpuRequested
	for cpu, flags := range r.CPUs {
		if (flags^h.regs.CPUs[cpu])&CPUFlagEnabled != 0 || flags&^known != 0 || flags != CPUFlagEnabled && (cpu == 0 || flags&CPUFlagEnabled == 0 && flags != 0) {
			return fmt.Errorf("restore CPU hotplug: flags %#x of processor %d, which here has %#x", flags, cpu, h.regs.CPUs[cpu])
		}
	}
	h.regs = r
	return nil
}
