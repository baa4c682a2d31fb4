package nodedev

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"virtd/durable"
)

// detachedVersion is the version of detached that this build writes. It reads every older one.
const detachedVersion = 1

// detached is what is remembered of a function that was taken from its driver: one file each, on disk before the driver
// loses the function, so that the function finds its way back whatever happens in between.
type detached struct {
	Version  int             `json:"version"`
	Identity string          `json:"identity"`           // see identity: another card may be in the slot by now
	Driver   string          `json:"driver"`             // that it had, "" for none
	Boot     string          `json:"boot"`               // the boot at which it was taken
	Domain   string          `json:"domain,omitempty"`   // UUID of the domain that it was taken for, "" for an administrator
	Function *FunctionConfig `json:"function,omitempty"` // what the physical function did for it before
}

const recordSuffix = ".json"

// identity tells one card from the next in the same slot.
func (h *Hostdevs) identity(dev string) string {
	var parts []string
	for _, attr := range []string{"vendor", "device", "subsystem_vendor", "subsystem_device", "class"} {
		parts = append(parts, strings.TrimPrefix(h.attr(dev, attr), "0x"))
	}
	return strings.Join(parts, ":")
}

// load reads the records.
func (h *Hostdevs) load() error {
	if err := os.MkdirAll(h.state, 0o700); err != nil {
		return fmt.Errorf("keep which drivers the host's devices had: %w", err)
	}
	entries, err := os.ReadDir(h.state)
	if err != nil {
		return fmt.Errorf("read which drivers the host's devices had: %w", err)
	}
	for _, e := range entries {
		name, isRecord := strings.CutSuffix(e.Name(), recordSuffix)
		a, err := ParseAddress(name)
		if err != nil || !isRecord {
			continue // a write that was cut short, or not ours
		}
		d, why := h.read(a)
		if why == "" {
			h.detached[a] = d
			continue
		}
		h.log.Info("dropping the record of a detached device", "device", a.String(), "reason", why)
		if err := h.remove(a); err != nil {
			h.log.Warn("cannot drop the record of a detached device", "device", a.String(), "error", err)
		}
	}
	return nil
}

// read returns a record, or why it does not count any more.
func (h *Hostdevs) read(a Address) (detached, string) {
	var d detached
	text, err := os.ReadFile(h.recordFile(a))
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil || d.Version < 1 || d.Version > detachedVersion {
		return d, fmt.Sprintf("it cannot be read (version %d): %v", d.Version, err)
	}
	dev, err := h.pciPath(a)
	if err != nil {
		return d, "the device is gone"
	}
	driver := h.Driver(a)
	switch {
	case h.identity(dev) != d.Identity:
		return d, "another device is at this address"
	case isVFIO(driver):
		return d, ""
	case driver == "" && d.Boot == h.boot: // it was on its way
		return d, ""
	case d.Boot != h.boot:
		return d, "the host was booted since, and its driver is '" + driver + "'"
	}
	return d, "it has the driver '" + driver + "' again"
}

func (h *Hostdevs) recordFile(a Address) string {
	return filepath.Join(h.state, a.String()+recordSuffix)
}

// put makes a record durable.
func (h *Hostdevs) put(a Address, d detached) error {
	d.Version = detachedVersion
	text, err := json.Marshal(d)
	if err == nil {
		err = durable.Write(h.recordFile(a), text)
	}
	if err != nil {
		return fmt.Errorf("remember the driver of PCI device %s: %w", a, err)
	}
	h.detached[a] = d
	return nil
}

// remove forgets a record.
func (h *Hostdevs) remove(a Address) error {
	delete(h.detached, a)
	return durable.Remove(h.recordFile(a))
}
