package kvm

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/kvm/supervise"
	"virtd/hypervisor"
	"virtd/virterr"
)

// recordVersion is the version of record that this build writes. It reads every older one.
const recordVersion = 1

// record is all that a later virtd needs to know about an engine.
type record struct {
	Version   int    `json:"version"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // supervise.Stat.StartTime
	UID       int    `json:"uid"`       // -1: virtd's own
	Dir       string `json:"dir"`       // monitor socket and exit record
	Cgroup    string `json:"cgroup,omitempty"`
	LogFile   string `json:"log"`
	LogOffset int64  `json:"logOffset"` // where this run's part begins

	Images   []imageRecord     `json:"images,omitempty"`
	Taps     map[string]string `json:"taps,omitempty"`     // alias: device
	Sockets  []string          `json:"sockets,omitempty"`  // to remove at the end
	Hostdevs []string          `json:"hostdevs,omitempty"` // PCI functions of the host, by address; engines that could not lose them
	Runtime  domain.Runtime    `json:"runtime"`
	Memory   uint64            `json:"memory"` // bytes of guest RAM
	Warnings []string          `json:"warnings,omitempty"`
	// Functions are PCI functions of the host: alias: address.
	Functions map[string]string `json:"functions,omitempty"`
	// Refused tells why packets of an interface do not go through vhost, by alias.
	Refused map[string]string `json:"refused,omitempty"`
}

func (r *record) encode() (json.RawMessage, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, virterr.New(virterr.InternalError, "cannot encode the record of an engine: %w", err)
	}
	return text, nil
}

func decodeRecord(text json.RawMessage) (*record, error) {
	r := &record{UID: -1}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, virterr.New(virterr.InternalError, "cannot read the record of an engine: %w", err)
	}
	if r.Version > recordVersion || r.PID <= 1 || r.Dir == "" {
		return nil, virterr.New(virterr.InternalError, "cannot use the record of an engine: version %d, pid %d, directory '%s'", r.Version, r.PID, r.Dir)
	}
	return r, nil
}

// maxExitRecord bounds an exit record, which the engine writes, in bytes.
const maxExitRecord = 64 << 10

// exit finds out why the engine of a record ended. status is what its parent was told, or "".
func (r *record) exit(status string) driver.Exit {
	if e, ok := readExitRecord(filepath.Join(r.Dir, exitFile)); ok {
		return e
	}
	if r.Cgroup != "" && supervise.OOMKills(r.Cgroup) > 0 {
		return driver.Exit{Reason: driver.ExitOOM, Detail: "the host ran out of memory and killed the engine"}
	}
	detail := "the engine left no exit record"
	if status != "" {
		detail += " (" + status + ")"
	}
	if last := r.lastWords(); last != "" {
		detail += "; its log ends with: " + last
	}
	return driver.Exit{Reason: driver.ExitCrashed, Detail: detail}
}

func readExitRecord(path string) (driver.Exit, bool) {
	text, err := readBounded(path, 0, maxExitRecord)
	if err != nil || len(text) == 0 {
		return driver.Exit{}, false
	}
	var e hypervisor.ExitRecord
	if json.Unmarshal(text, &e) != nil {
		return driver.Exit{}, false
	}
	switch reason := driver.ExitReason(e.Reason); reason {
	case driver.ExitShutdown, driver.ExitReboot, driver.ExitPanic, driver.ExitQuit, driver.ExitError:
		return driver.Exit{Reason: reason, Detail: printable(e.Detail)}, true
	}
	return driver.Exit{}, false
}

// lastWords returns what this run's log says about its end: the line with which Go's runtime begins to die and the next,
// else the last lines.
func (r *record) lastWords() string {
	const most = 256 << 10
	text, err := readBounded(r.LogFile, r.LogOffset, most)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for i, line := range lines {
		for _, sign := range []string{"panic: ", "fatal error: ", "runtime: ", "SIG", "unexpected fault"} {
			if strings.HasPrefix(line, sign) {
				return printable(strings.Join(lines[i:min(i+2, len(lines))], "; "))
			}
		}
	}
	return printable(strings.Join(lines[max(0, len(lines)-3):], "; "))
}

func readBounded(path string, offset int64, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text := make([]byte, limit)
	n, err := f.ReadAt(text, offset)
	if n == 0 && err != nil {
		return nil, err
	}
	return text[:n], nil
}

// printable makes one bounded line of what an engine wrote.
func printable(text string) string {
	const most = 1000
	line := make([]rune, 0, len(text))
	for _, c := range text {
		switch {
		case c == '\n' || c == '\r' || c == '\t':
			c = ' '
		case c < ' ' || c == 0x7f:
			c = '?'
		}
		if line = append(line, c); len(line) == most {
			break
		}
	}
	for len(line) > 0 && line[len(line)-1] == ' ' {
		line = line[:len(line)-1]
	}
	return string(line)
}

// clean removes what is left of an engine that has ended. While something of the host stays, so does the directory, by which
// it is found.
func (d *Driver) clean(r *record) error {
	errs := []error{d.removeLive(r.Dir)}
	if errs[0] == nil {
		errs = append(errs, os.RemoveAll(r.Dir))
	}
	for _, s := range r.Sockets {
		errs = append(errs, ignoreMissing(os.Remove(s)))
	}
	if r.Cgroup != "" {
		errs = append(errs, supervise.RemoveCgroup(r.Cgroup))
	}
	return errors.Join(errs...)
}

// removeLive removes what the host has for an engine and what does not go by itself when it ends.
func (d *Driver) removeLive(dir string) error {
	errs := []error{removeLinks(d.cfg.Links, dir)}
	if d.cfg.UserNets != nil {
		errs = append(errs, d.cfg.UserNets.StopAll(dir))
	}
	return errors.Join(errs...)
}
