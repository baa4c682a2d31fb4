package chipset

import (
	"encoding/json"
	"fmt"
)

// Latches are the registers of a board that only keep what was written: reset control, port 92, the diagnostic code, the
// speaker port and the APM ports. They are saved together.
type Latches struct {
	CF9     *CF9
	Port92  *Port92
	Post    *PostCode
	Speaker *Speaker
	APM     *APM
}

type latchState struct {
	Version                    int
	CF9, Port92, Post, Speaker uint8
	APM                        [APMPorts]uint8
}

// Save returns the values.
func (l Latches) Save() ([]byte, error) {
	s := latchState{Version: 1, CF9: uint8(l.CF9.value.Load()), Port92: uint8(l.Port92.value.Load()), Post: l.Post.Last(),
		Speaker: uint8(l.Speaker.value.Load())}
	for i := range s.APM {
		s.APM[i] = uint8(l.APM.value[i].Load())
	}
	return json.Marshal(s)
}

// Restore sets what Save returned. Nothing is reset by it, whatever the values say.
func (l Latches) Restore(state []byte) error {
	var s latchState
	if err := json.Unmarshal(state, &s); err != nil {
		return fmt.Errorf("restore board registers: %w", err)
	}
	if s.Version != 1 {
		return fmt.Errorf("restore board registers: version %d is not one of ours", s.Version)
	}
	l.CF9.value.Store(uint32(s.CF9))
	l.Port92.value.Store(uint32(s.Port92) & 2)
	l.Post.last.Store(uint32(s.Post))
	l.Speaker.value.Store(uint32(s.Speaker))
	for i := range s.APM {
		l.APM.value[i].Store(uint32(s.APM[i]))
	}
	return nil
}
