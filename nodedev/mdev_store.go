package nodedev

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"virtd/durable"
)

// mdevVersion is the version of mdevRecord that this build writes. It reads every older one.
const mdevVersion = 1

// mdevRecord is a definition as it is kept: one file each, named by the device.
type mdevRecord struct {
	Version   int  `json:"version"`
	Autostart bool `json:"autostart,omitempty"`
	// Boot is the one in which somebody started or destroyed the device, or virtd did: it is started automatically once in
	// each boot of the host, so that a restart of virtd does not bring back what an administrator destroyed.
	Boot string `json:"boot,omitempty"`
	mdevDefinition
}

// mdevStore keeps the definitions on disk. Its callers serialize changes.
type mdevStore struct{ dir string } // "": none can be kept

// load returns the definitions by the names of their devices, and what could not be understood, which is left where it is.
func (s mdevStore) load() (map[string]mdevRecord, []error) {
	records := map[string]mdevRecord{}
	if s.dir == "" {
		return records, nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return records, []error{fmt.Errorf("keep definitions of mediated devices: %w", err)}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return records, []error{fmt.Errorf("read the definitions of mediated devices: %w", err)}
	}
	var problems []error
	for _, e := range entries {
		name, isRecord := strings.CutSuffix(e.Name(), recordSuffix)
		if !isRecord || durable.Unfinished(e.Name()) {
			continue
		}
		r, err := s.read(name)
		if err != nil {
			problems = append(problems, fmt.Errorf("read the definition of a mediated device from %s: %w", s.file(name), err))
			continue
		}
		records[name] = r
	}
	return records, problems
}

func (s mdevStore) read(name string) (mdevRecord, error) {
	text, err := os.ReadFile(s.file(name))
	if err != nil {
		return mdevRecord{}, err
	}
	return decodeMdev(text, name)
}

// decodeMdev reads a record of the device called name.
func decodeMdev(text []byte, name string) (mdevRecord, error) {
	var r mdevRecord
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	switch {
	case r.Version < 1 || r.Version > mdevVersion:
		return r, fmt.Errorf("it is of version %d, and this virtd knows up to %d", r.Version, mdevVersion)
	case r.UUID == "" || r.Parent == "" || r.Type == "" || r.name() != name:
		return r, fmt.Errorf("it is not that of %s", name)
	}
	return r, nil
}

func (s mdevStore) file(name string) string { return filepath.Join(s.dir, name+recordSuffix) }

// put makes a record durable.
func (s mdevStore) put(r mdevRecord) error {
	if s.dir == "" {
		return fmt.Errorf("this virtd has no folder for definitions of mediated devices")
	}
	r.Version = mdevVersion
	text, err := json.Marshal(r)
	if err == nil {
		err = durable.Write(s.file(r.name()), text)
	}
	if err != nil {
		return fmt.Errorf("keep the definition of %s: %w", r.name(), err)
	}
	return nil
}

func (s mdevStore) remove(name string) error { return durable.Remove(s.file(name)) }
