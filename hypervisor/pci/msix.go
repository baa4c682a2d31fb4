package pci

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"virtd/hypervisor/interrupt"
)

// Message control bits (PCI 3.0, 6.8.2.3).
const (
	msixEnable   = 1 << 15
	msixMaskAll  = 1 << 14
	msixMaxCount = 2048
	msixEntry    = 16 // bytes of a table entry (6.8.2.9)
	msixMasked   = 1 << 0
)

// MSIX is the MSI-X capability of a function: its table, its pending bits and the interrupts behind its vectors. Devices
// signal through Vector; the guest programs and masks through the BAR and configuration space.
type MSIX struct {
	f       *Function
	at      int         // offset of the capability
	enabled atomic.Bool // for Enabled, without a lock

	mu      sync.Mutex
	table   []byte
	vectors []msixVector
}

type msixVector struct {
	msi     interrupt.MSI
	open    bool   // unmasked in msi
	address uint64 // as last configured, valid when set
	data    uint32
	set     bool
}

// AddMSIX appends the MSI-X capability with n vectors, 1 to 2048. The table (16 bytes a vector) and the pending bits are
// at multiples of 8 in the BAR of index bar, which must have been added and have room. It fails only when the controller
// has no interrupts left. Call it before Root.Add.
func (f *Function) AddMSIX(n int, c interrupt.Controller, bar int, tableOffset, pbaOffset uint64) (*MSIX, error) {
	body := make([]byte, 10)
	binary.LittleEndian.PutUint16(body, uint16(n-1))
	binary.LittleEndian.PutUint32(body[2:], uint32(tableOffset)|uint32(bar))
	binary.LittleEndian.PutUint32(body[6:], uint32(pbaOffset)|uint32(bar))
	at := f.AddCapability(CapMSIX, body, nil)
	return f.AddMSIXAt(at, n, c, MSIXPlace{bar, tableOffset}, MSIXPlace{bar, pbaOffset})
}

// MSIXPlace says where a structure of MSI-X is: the index of the BAR, and the offset in it.
type MSIXPlace struct {
	BAR    int
	Offset uint64
}

// AddMSIXAt is AddMSIX for a capability that is in configuration space already, at offset at.
func (f *Function) AddMSIXAt(at, n int, c interrupt.Controller, table, pba MSIXPlace) (*MSIX, error) {
	pbaSize := uint64(n+63) / 64 * 8
	if n < 1 || n > msixMaxCount || f.msix != nil || !f.holds(table, uint64(n)*msixEntry) || !f.holds(pba, pbaSize) {
		panic("pci: MSI-X does not fit its BAR")
	}
	m := &MSIX{f: f, at: at, table: make([]byte, n*msixEntry), vectors: make([]msixVector, n)}
	for i := range m.vectors {
		msi, err := c.NewMSI()
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("allocate MSI-X vector %d of %d: %w", i, n, err)
		}
		m.vectors[i].msi = msi
	}
	m.maskAll()
	binary.LittleEndian.PutUint16(f.space.writable[at+2:], msixEnable|msixMaskAll)
	f.bars[table.BAR].overlays = append(f.bars[table.BAR].overlays, overlay{table.Offset, uint64(len(m.table)), (*msixTable)(m)})
	f.bars[pba.BAR].overlays = append(f.bars[pba.BAR].overlays, overlay{pba.Offset, pbaSize, (*msixPending)(m)})
	f.msix = m
	return m, nil
}

// holds reports whether size bytes are in a BAR.
func (f *Function) holds(p MSIXPlace, size uint64) bool {
	return p.BAR >= 0 && p.BAR < len(f.bars) && f.bars[p.BAR] != nil && p.Offset%8 == 0 && p.Offset <= f.bars[p.BAR].Size && size <= f.bars[p.BAR].Size-p.Offset
}

// Len returns the number of vectors.
func (m *MSIX) Len() int { return len(m.vectors) }

// Enabled reports whether the guest chose MSI-X, so that the device signals vectors and leaves its pin alone. It takes
// no lock.
func (m *MSIX) Enabled() bool { return m.enabled.Load() }

// Vector returns the interrupt behind vector i, or nil when there is none: guests choose the number. The device may call
// Signal, FD and Pending of it; masking and the message are MSIX's own. A signal while the vector is masked, or MSI-X
// is off, stays pending.
func (m *MSIX) Vector(i int) interrupt.MSI {
	if i < 0 || i >= len(m.vectors) {
		return nil
	}
	return m.vectors[i].msi
}

// Close releases the interrupts. Nothing may signal afterwards.
func (m *MSIX) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var first error
	for i := range m.vectors {
		if v := &m.vectors[i]; v.msi != nil {
			if err := v.msi.Close(); err != nil && first == nil {
				first = err
			}
		}
	}
	return first
}

func (m *MSIX) maskAll() {
	clear(m.table)
	for i := range m.vectors {
		m.table[i*msixEntry+12] = msixMasked
	}
}

// reset masks every entry, as at power-on.
func (m *MSIX) reset() {
	m.mu.Lock()
	m.maskAll()
	m.mu.Unlock()
	m.controlChanged()
}

// controlChanged applies message control and COMMAND to all vectors: a function that is no bus master cannot send
// messages (PCI 3.0, 6.8.1).
func (m *MSIX) controlChanged() {
	f := m.f
	f.mu.Lock()
	control, command := f.space.u16(m.at+2), f.space.u16(regCommand)
	f.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enabled.Store(control&msixEnable != 0)
	sending := control&(msixEnable|msixMaskAll) == msixEnable && command&commandMaster != 0
	for i := range m.vectors {
		m.update(i, sending)
	}
}

// sending reports whether unmasked entries deliver now. The caller holds m.mu.
func (m *MSIX) sending() bool {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	return m.f.space.u16(m.at+2)&(msixEnable|msixMaskAll) == msixEnable && m.f.space.u16(regCommand)&commandMaster != 0
}

// update brings the interrupt of vector i in step with its entry. The message is handed over only when it changed,
// because each change costs the machine a new routing table. A message the controller refuses leaves the vector masked.
// The caller holds m.mu.
func (m *MSIX) update(i int, sending bool) {
	v, e := &m.vectors[i], m.table[i*msixEntry:(i+1)*msixEntry]
	if !sending || e[12]&msixMasked != 0 {
		if v.open {
			v.open = v.msi.Mask() != nil
		}
		return
	}
	address, data := binary.LittleEndian.Uint64(e), binary.LittleEndian.Uint32(e[8:])
	if !v.set || v.address != address || v.data != data {
		if err := v.msi.Configure(address, data); err != nil {
			if v.open {
				v.open = v.msi.Mask() != nil
			}
			v.set = false
			return
		}
		v.address, v.data, v.set = address, data, true
	}
	if !v.open {
		v.open = v.msi.Unmask() == nil
	}
}

// msixTable is the table as the guest sees it in the BAR.
type msixTable MSIX

// Read implements bus.Device.
func (t *msixTable) Read(offset uint64, p []byte) {
	m := (*MSIX)(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(p)
	if offset < uint64(len(m.table)) {
		copy(p, m.table[offset:])
	}
}

// Write implements bus.Device. Every byte of an entry but the reserved bits of vector control is stored, whatever the
// width; entries touched are brought in step once, after all bytes are in.
func (t *msixTable) Write(offset uint64, p []byte) {
	m := (*MSIX)(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	size := uint64(len(m.table))
	if offset >= size || len(p) == 0 {
		return
	}
	n := copy(m.table[offset:], p)
	first, last := int(offset)/msixEntry, (int(offset)+n-1)/msixEntry
	sending := m.sending()
	for i := first; i <= last; i++ {
		control := m.table[i*msixEntry+12 : (i+1)*msixEntry]
		control[0] &= msixMasked
		clear(control[1:])
		m.update(i, sending)
	}
}

// msixPending is the pending bit array. It is read-only.
type msixPending MSIX

// Read implements bus.Device.
func (b *msixPending) Read(offset uint64, p []byte) {
	m := (*MSIX)(b)
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(p)
	for i := range p {
		for bit := range 8 {
			n := (int(offset)+i)*8 + bit
			if n < len(m.vectors) && !m.vectors[n].open && m.vectors[n].msi.Pending() {
				p[i] |= 1 << bit
			}
		}
	}
}

// Write implements bus.Device.
func (b *msixPending) Write(uint64, []byte) {}
