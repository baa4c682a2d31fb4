package hypervisor

import (
	"errors"
	"fmt"
	"io"
	"os"

	"virtd/hypervisor/statefile"
)

// openIncoming takes the state to start from.
func (m *Machine) openIncoming() error {
	if m.cfg.Incoming == "" {
		return nil
	}
	fd, err := m.host.take(m.cfg.Incoming, "saved state")
	if err != nil {
		return err
	}
	m.incoming = os.NewFile(uintptr(fd), "saved state")
	return nil
}

// restore makes the machine, which has just been built, what the saved state says, up to its last instruction. The machine
// then is a paused one. After an error it must not run: the caller ends it.
func (m *Machine) restore() error {
	defer func() { m.incoming.Close(); m.incoming = nil }()
	if err := m.board.root.Assign(m.layout.windows); err != nil { // a restored register then moves what the guest moved
		return fmt.Errorf("assign PCI resources: %w", err)
	}
	parts, err := m.parts()
	if err != nil {
		return err
	}
	sections, err := m.readState(m.incoming)
	if err != nil {
		return err
	}
	for _, p := range parts {
		state, ok := sections[p.name]
		if !ok {
			return fmt.Errorf("the saved machine has no %q, which this one has", p.name)
		}
		if err := p.restore(state); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		delete(sections, p.name)
	}
	for name := range sections {
		return fmt.Errorf("the saved machine has %q, which this one has not", name)
	}
	m.booted = true
	return nil
}

// maxState bounds what all sections of a state may hold together, in bytes.
const maxState = 64 << 20

// readState reads a whole stream: RAM into place, sections into memory. The first section is compared at once, so that
// the state of another machine is refused before its RAM is read.
func (m *Machine) readState(r io.Reader) (map[string][]byte, error) {
	s, err := statefile.NewReader(r)
	if err != nil {
		return nil, err
	}
	sections, total := map[string][]byte{}, 0
	for {
		rec, err := s.Next()
		switch {
		case errors.Is(err, io.EOF):
			return sections, nil
		case err != nil:
			return nil, err
		case rec.Section == "":
			if err := m.mem.WriteAt(rec.Data, rec.GPA); err != nil {
				return nil, fmt.Errorf("RAM: %w", err)
			}
			continue
		}
		if _, twice := sections[rec.Section]; twice {
			return nil, fmt.Errorf("section %q comes twice: %w", rec.Section, statefile.ErrCorrupt)
		}
		if total += len(rec.Data); total > maxState {
			return nil, fmt.Errorf("more than %d bytes of state: %w", maxState, statefile.ErrCorrupt)
		}
		if len(sections) == 0 && rec.Section == "machine" {
			if err := m.restoreShape(rec.Data); err != nil {
				return nil, err
			}
		}
		sections[rec.Section] = append([]byte(nil), rec.Data...)
	}
}
