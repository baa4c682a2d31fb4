package pci

import (
	"encoding/json"
	"fmt"
)

// stateVersion is the version of functionState. A newer one is refused; older ones stay readable.
const stateVersion = 1

// functionState is what Save returns.
type functionState struct {
	Version  int    `json:"version"`
	Identity uint32 `json:"identity"` // vendor and device
	Config   []byte `json:"config"`
	Asserted bool   `json:"asserted,omitempty"`
	MSIX     []byte `json:"msix,omitempty"` // the table
	// Pending are the vectors with a signal that waits behind a mask.
	Pending []int `json:"pending,omitempty"`
}

// Save returns the registers, the pin, the MSI-X table and what is pending behind masked vectors. Call it with the vCPUs
// stopped and the device quiesced.
func (f *Function) Save() ([]byte, error) {
	f.access.Lock()
	defer f.access.Unlock()
	f.mu.Lock()
	st := functionState{Version: stateVersion, Identity: f.space.u32(regVendor),
		Config: append([]byte(nil), f.space.data...), Asserted: f.asserted}
	f.mu.Unlock()
	if f.msix != nil {
		f.msix.mu.Lock()
		st.MSIX = append([]byte(nil), f.msix.table...)
		for i := range f.msix.vectors {
			if v := &f.msix.vectors[i]; !v.open && v.msi.Pending() {
				st.Pending = append(st.Pending, i)
			}
		}
		f.msix.mu.Unlock()
	}
	return json.Marshal(st)
}

// Restore sets what Save returned in a function of the same shape that was added at the same place. Only what a guest
// could have written, or the device changes by itself, is taken from the state: a damaged one cannot change what the
// function is. The hooks of OnWrite run for the whole space, so that the device follows its registers; those of OnAct do
// not.
func (f *Function) Restore(state []byte) error {
	var st functionState
	if err := json.Unmarshal(state, &st); err != nil {
		return fmt.Errorf("restore %v: %w", f, err)
	}
	f.access.Lock()
	defer f.access.Unlock()
	if err := f.restoreRegisters(&st); err != nil {
		return fmt.Errorf("restore %v: %w", f, err)
	}
	if f.msix != nil {
		(*msixTable)(f.msix).Write(0, st.MSIX)
		f.msix.controlChanged()
		for _, i := range st.Pending {
			if msi := f.msix.Vector(i); msi != nil {
				msi.Signal()
			}
		}
	}
	f.decodeChanged()
	for i := range f.onWrite {
		if h := &f.onWrite[i]; !h.act {
			h.call(0, expressSize)
		}
	}
	return nil
}

func (f *Function) restoreRegisters(st *functionState) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	table := 0
	if f.msix != nil {
		table = len(f.msix.table)
	}
	s := &f.space
	switch {
	case st.Version < 1 || st.Version > stateVersion:
		return fmt.Errorf("state of version %d, and this engine knows up to %d", st.Version, stateVersion)
	case st.Identity != s.u32(regVendor):
		return fmt.Errorf("state of another device (%04x:%04x)", st.Identity&0xffff, st.Identity>>16)
	case len(st.Config) != len(s.data) || len(st.MSIX) != table:
		return fmt.Errorf("state of another shape (%d bytes and %d of MSI-X)", len(st.Config), len(st.MSIX))
	}
	for i, v := range st.Config {
		mask := s.writable[i] | s.w1c[i] | s.volatile[i]
		s.data[i] = s.data[i]&^mask | v&mask
	}
	f.asserted = st.Asserted && f.pin != 0
	f.updateINTx()
	return nil
}
