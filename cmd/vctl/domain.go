package main

import (
	"fmt"
	"strconv"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
)

// domain finds a domain as virsh does: by id, then by UUID, then by name.
func (s *session) domain(arg string) (libvirt.Domain, error) {
	if id, err := strconv.ParseInt(arg, 10, 32); err == nil && id >= 0 {
		if d, err := s.DomainLookupByID(int32(id)); err == nil {
			return d, nil
		}
	}
	if u, err := uuid.Parse(arg); err == nil {
		if d, err := s.DomainLookupByUUID(libvirt.UUID(u)); err == nil {
			return d, nil
		}
	}
	d, err := s.DomainLookupByName(arg)
	if err != nil {
		return d, fmt.Errorf("failed to get domain '%s': %w", arg, err)
	}
	return d, nil
}

// uuidText is a domain's UUID in canonical text.
func uuidText(d libvirt.Domain) string { return uuid.UUID(d.UUID).String() }

// stateNames are virsh's words for virDomainState.
var stateNames = []string{"no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended"}

// stateName is virsh's word for a state.
func stateName(state int32) string {
	if state >= 0 && int(state) < len(stateNames) {
		return stateNames[state]
	}
	return "no state"
}

// reasonNames are virsh's words for the reasons of a state, by state and number.
var reasonNames = map[int32][]string{
	0: {"unknown"},
	1: {"unknown", "booted", "migrated", "restored", "from snapshot", "unpaused", "migration canceled", "save canceled",
		"event wakeup", "crashed", "post-copy", "post-copy failed"},
	2: {"unknown"},
	3: {"unknown", "user", "migrating", "saving", "dumping", "I/O error", "watchdog", "from snapshot", "shutting down",
		"creating snapshot", "crashed", "starting up", "post-copy", "post-copy failed", "api error"},
	4: {"unknown", "user"},
	5: {"unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "daemon"},
	6: {"unknown", "panicked"},
	7: {"unknown"},
}

// reasonName is virsh's word for the reason of a state.
func reasonName(state, reason int32) string {
	if names := reasonNames[state]; reason >= 0 && int(reason) < len(names) {
		return names[reason]
	}
	return "unknown"
}

// idText is a domain's id, or a dash when it is off.
func idText(d libvirt.Domain) string {
	if d.ID < 0 {
		return "-"
	}
	return strconv.Itoa(int(d.ID))
}
