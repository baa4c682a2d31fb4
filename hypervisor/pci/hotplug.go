package pci

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
)

// The hotplug register block, by which the guest's ACPI methods learn of devices that come and are asked to go, and by
// which they let one go. Registers 0x00 to 0x13 are those of QEMU's docs/specs/acpi_pci_hotplug; the last one is ours.
// A register is 32 bits; the ones with bits by slot are about the bus that HotplugSelect names.
const (
	HotplugPort  = 0x0cc0 // first port, on both boards
	HotplugPorts = 0x18

	HotplugUp     = 0x00 // slots that got a device; a read clears it
	HotplugDown   = 0x04 // slots whose device is asked to go; a read clears it
	HotplugEject  = 0x08 // writing a bit lets the device of the slot go
	HotplugRemove = 0x0c // slots whose devices can go, empty ones too
	HotplugSelect = 0x10 // bus: a controller index, 0 is the root bus
	HotplugStatus = 0x14 // what _OST reports: slot, bits 0 to 4; event, bits 8 to 15; status, bits 16 to 23
)

// What _OST reports (ACPI 6.4, 6.3.5): the event, and the statuses that are no refusal.
const (
	ostEjectRequest    = 3
	ostSuccess         = 0
	ostEjectInProgress = 0x84
)

// HotplugSlot is a place for one device: a slot of the root bus of the pc board, or the one of a root port.
type HotplugSlot struct {
	Bus  uint8 // controller index
	Slot uint8
}

// HotplugConfig is what the block tells the machine. The functions are called by vCPU threads, without a lock of the
// block's.
type HotplugConfig struct {
	// Slots are the places that can take a device while the guest runs.
	Slots []HotplugSlot
	// Notify raises the general purpose event that makes the guest look.
	Notify func()
	// Ejected is called when the guest lets the device of a slot go, whether asked to or not.
	Ejected func(HotplugSlot)
	// Refused is called when the guest says that it will not let go of a device that was asked to go.
	Refused func(slot HotplugSlot, status uint8)
}

// Hotplug is the hotplug register block. It implements bus.Device, and its methods are safe for concurrent use.
type Hotplug struct {
	cfg HotplugConfig

	mu    sync.Mutex
	sel   uint32
	buses map[uint8]*hotplugBus
}

// hotplugBus has a bit for each slot.
type hotplugBus struct {
	Slots     uint32 `json:"-"` // that can take devices
	Up        uint32 `json:"up,omitempty"`
	Down      uint32 `json:"down,omitempty"`
	Occupied  uint32 `json:"occupied,omitempty"`
	Requested uint32 `json:"requested,omitempty"` // asked to go, and not gone
	Fixed     uint32 `json:"-"`                   // occupied by what does not go
}

// NewHotplug returns the block with every slot empty.
func NewHotplug(c HotplugConfig) *Hotplug {
	h := &Hotplug{cfg: c, buses: map[uint8]*hotplugBus{}}
	for _, s := range c.Slots {
		b := h.buses[s.Bus]
		if b == nil {
			b = &hotplugBus{}
			h.buses[s.Bus] = b
		}
		b.Slots |= 1 << (s.Slot & 31)
	}
	return h
}

// Can reports whether a device at a can come and go.
func (h *Hotplug) Can(a Address) bool {
	b := h.buses[a.Bus]
	return b != nil && a.Function == 0 && b.Slots>>(a.Slot&31)&1 != 0
}

// Occupy notes a device that is there without the guest having to be told, and whether it can go.
func (h *Hotplug) Occupy(a Address, removable bool) {
	if !h.Can(a) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b, bit := h.buses[a.Bus], uint32(1)<<(a.Slot&31)
	b.vacate(bit)
	if b.Occupied |= bit; !removable {
		b.Fixed |= bit
	}
}

// Fix notes that what is in the slot of a does not go: several functions, of which a guest lets go at once.
func (h *Hotplug) Fix(a Address) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, bit := h.buses[a.Bus], uint32(1)<<(a.Slot&31); b != nil && b.Slots&bit != 0 {
		b.Occupied |= bit
		b.Fixed |= bit
	}
}

// Announce tells the guest of a device that Occupy noted.
func (h *Hotplug) Announce(a Address) {
	if !h.Can(a) {
		return
	}
	h.mu.Lock()
	b := h.buses[a.Bus]
	b.Up |= b.Occupied & (1 << (a.Slot & 31))
	h.mu.Unlock()
	h.cfg.Notify()
}

// Request asks the guest to let the device at a go. Ejected follows when it does.
func (h *Hotplug) Request(a Address) {
	if !h.Can(a) {
		return
	}
	h.mu.Lock()
	b, bit := h.buses[a.Bus], uint32(1)<<(a.Slot&31)
	asked := b.Occupied&^b.Fixed&bit != 0
	if asked {
		b.Down |= bit
		b.Requested |= bit
	}
	h.mu.Unlock()
	if asked {
		h.cfg.Notify()
	}
}

// Requested returns the slots whose devices were asked to go and have not gone. A machine that is reset lets them go:
// the guest that used them is no more.
func (h *Hotplug) Requested() []HotplugSlot {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []HotplugSlot
	for _, s := range h.cfg.Slots {
		if h.buses[s.Bus].Requested>>(s.Slot&31)&1 != 0 {
			out = append(out, s)
		}
	}
	return out
}

// Vacate notes that the device of a slot is gone without the guest's doing.
func (h *Hotplug) Vacate(s HotplugSlot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.buses[s.Bus]; b != nil {
		b.vacate(uint32(1) << (s.Slot & 31))
	}
}

func (b *hotplugBus) vacate(bits uint32) {
	b.Occupied &^= bits
	b.Requested &^= bits
	b.Up &^= bits
	b.Down &^= bits
	b.Fixed &^= bits
}

// Reset forgets what the guest was to be told: a new one enumerates.
func (h *Hotplug) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sel = 0
	for _, b := range h.buses {
		b.Up, b.Down, b.Requested = 0, 0, 0
	}
}

// Read implements bus.Device. Accesses that are not of a whole register read zero.
func (h *Hotplug) Read(offset uint64, p []byte) {
	clear(p)
	if len(p) != 4 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var v uint32
	b := h.selected()
	switch {
	case offset == HotplugSelect:
		v = h.sel
	case b == nil:
	case offset == HotplugUp:
		v, b.Up = b.Up, 0
	case offset == HotplugDown:
		v, b.Down = b.Down, 0
	case offset == HotplugRemove:
		v = b.Slots &^ b.Fixed
	}
	binary.LittleEndian.PutUint32(p, v)
}

func (h *Hotplug) selected() *hotplugBus {
	if h.sel > 0xff {
		return nil
	}
	return h.buses[uint8(h.sel)]
}

// Write implements bus.Device. Accesses that are not of a whole register are ignored.
func (h *Hotplug) Write(offset uint64, p []byte) {
	if len(p) != 4 {
		return
	}
	v := binary.LittleEndian.Uint32(p)
	h.mu.Lock()
	bus := uint8(h.sel)
	b := h.selected()
	var gone uint32
	refused := false
	switch {
	case offset == HotplugSelect:
		h.sel = v
	case b == nil:
	case offset == HotplugEject:
		gone = v & b.Occupied &^ b.Fixed
		b.vacate(gone)
	case offset == HotplugStatus:
		bit := uint32(1) << (v & 31)
		event, status := uint8(v>>8), uint8(v>>16)
		if event == ostEjectRequest && status != ostSuccess && status != ostEjectInProgress && b.Requested&bit != 0 {
			b.Requested &^= bit
			refused = true
		}
	}
	h.mu.Unlock()
	for slot := uint8(0); gone != 0; slot, gone = slot+1, gone>>1 {
		if gone&1 != 0 {
			h.cfg.Ejected(HotplugSlot{bus, slot})
		}
	}
	if refused {
		h.cfg.Refused(HotplugSlot{bus, uint8(v & 31)}, uint8(v>>16))
	}
}

// hotplugState is what Save returns.
type hotplugState struct {
	Version int                   `json:"version"`
	Select  uint32                `json:"select"`
	Buses   map[uint8]*hotplugBus `json:"buses"`
}

const hotplugStateVersion = 1

// Save returns the registers and what is in the slots. Call it with the vCPUs stopped.
func (h *Hotplug) Save() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return json.Marshal(hotplugState{hotplugStateVersion, h.sel, h.buses})
}

// Restore sets what Save returned in a block with the same slots. What is in the slots is the machine's to say, with
// Occupy.
func (h *Hotplug) Restore(state []byte) error {
	var st hotplugState
	if err := json.Unmarshal(state, &st); err != nil {
		return fmt.Errorf("restore PCI hotplug: %w", err)
	}
	if st.Version != hotplugStateVersion {
		return fmt.Errorf("restore PCI hotplug: state version %d is not %d", st.Version, hotplugStateVersion)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sel = st.Select
	for index, b := range h.buses {
		saved := st.Buses[index]
		if saved == nil {
			saved = &hotplugBus{}
		}
		b.Up, b.Down, b.Requested = saved.Up&b.Occupied, saved.Down&b.Occupied, saved.Requested&b.Occupied
	}
	return nil
}
