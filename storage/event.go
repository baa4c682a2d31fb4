package storage

import "github.com/google/uuid"

// EventKind tells events apart.
type EventKind int

// The kinds; the numbers are libvirt's (virStoragePoolEventID).
const (
	EventLifecycle EventKind = 0
	EventRefresh   EventKind = 1
)

// Lifecycle is what happened to a pool (virStoragePoolEventLifecycleType).
type Lifecycle int

// What can happen to a pool.
const (
	Defined   Lifecycle = 0
	Undefined Lifecycle = 1
	Started   Lifecycle = 2
	Stopped   Lifecycle = 3
	Created   Lifecycle = 4 // its directory was built
	Deleted   Lifecycle = 5 // its directory was removed
)

// Event is something that happened to a pool.
type Event struct {
	Kind EventKind
	Name string
	UUID uuid.UUID
	Type Lifecycle // of EventLifecycle
}
