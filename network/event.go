package network

import "github.com/google/uuid"

// Lifecycle is what happened to a network (virNetworkEventLifecycleType).
type Lifecycle int

// What can happen to a network.
const (
	Defined   Lifecycle = 0
	Undefined Lifecycle = 1
	Started   Lifecycle = 2
	Stopped   Lifecycle = 3
)

// Event is something that happened to a network.
type Event struct {
	Name string
	UUID uuid.UUID
	Type Lifecycle
}
