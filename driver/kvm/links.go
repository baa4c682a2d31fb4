package kvm

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"

	"virtd/durable"
	"virtd/network/bridge"
	"virtd/virterr"
)

// linkRecord is a macvtap that an engine uses. It is a file in the engine's directory, written before the link is made, because
// a macvtap stays when its last descriptor is closed: whoever removes the directory removes the link first.
type linkRecord struct {
	Name   string `json:"name"`
	Index  int    `json:"index"` // 0: not known to exist yet
	MAC    string `json:"mac"`   // with which it is made
	Parent string `json:"parent"`
}

const linkPrefix = "macvtap-" // before the interface's alias

func linkPath(dir, alias string) string { return filepath.Join(dir, linkPrefix+alias+".json") }

// openMacvtap makes the macvtap of an interface.
func (d *Driver) openMacvtap(o *opened, r Resource, dir string) ([]*os.File, error) {
	mac, err := net.ParseMAC(r.Macvtap.MAC)
	if err != nil {
		return nil, virterr.New(virterr.InvalidMAC, "interface %s: '%s' is no MAC address", r.Alias, r.Macvtap.MAC)
	}
	note := func(name string, index int) error {
		text, err := json.Marshal(linkRecord{name, index, mac.String(), r.Macvtap.Parent})
		if err == nil {
			err = durable.Write(linkPath(dir, r.Alias), text)
		}
		if err != nil {
			return virterr.New(virterr.SystemError, "cannot note the macvtap of interface %s: %w", r.Alias, err)
		}
		return nil
	}
	o.links = append(o.links, linkPath(dir, r.Alias))
	tap, err := d.cfg.Links.OpenMacvtap(bridge.MacvtapConfig{
		Name: r.Macvtap.Name, Parent: r.Macvtap.Parent, Mode: r.Macvtap.Mode, MAC: mac, MTU: r.Macvtap.MTU, Queues: r.Macvtap.Queues, Note: note,
		Bandwidth: value(r.Macvtap.Bandwidth),
	})
	if err != nil {
		return nil, err
	}
	o.taps[r.Alias], o.runtime.Taps[r.Alias] = tap.Name, tap.Name
	return tap.Files, nil
}

// removeLink removes the macvtap of a record, and the record when it is gone. None is no error.
func removeLink(links Links, path string) error {
	l, err := readLink(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot tell which macvtap to remove: %w", err)
	}
	mac, _ := net.ParseMAC(l.MAC)
	if err := links.DeleteMacvtap(l.Name, l.Index, mac); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(path))
}

// removeLinks removes the macvtaps of an engine that has ended.
func removeLinks(links Links, dir string) error {
	var errs []error
	for _, path := range linkPaths(dir) {
		errs = append(errs, removeLink(links, path))
	}
	return errors.Join(errs...)
}

func linkPaths(dir string) []string {
	all, _ := filepath.Glob(filepath.Join(dir, linkPrefix+"*.json")) // fails for a bad pattern only
	var out []string
	for _, path := range all {
		if !durable.Unfinished(filepath.Base(path)) {
			out = append(out, path)
		}
	}
	return out
}

func readLink(path string) (l linkRecord, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &l)
	}
	return l, err
}

// macvtaps returns the macvtaps of the engine, by alias.
func (i *instance) macvtaps() map[string]linkRecord {
	out := map[string]linkRecord{}
	for _, path := range linkPaths(i.rec.Dir) {
		if l, err := readLink(path); err == nil {
			alias := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), linkPrefix), ".json")
			out[alias] = l
		}
	}
	return out
}
