package manager

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Ref names a domain in events and lookups. ID is -1 for a domain that is off.
type Ref struct {
	Name string
	UUID uuid.UUID
	ID   int
}

// Event is one thing that happened to a domain. Kind says which of the other fields count.
type Event struct {
	Kind   EventKind
	Domain Ref

	// Type and Detail of EventLifecycle; the numbers of Detail belong to Type.
	Type   LifecycleType
	Detail int

	Balloon uint64 // KiB, of EventBalloon

	// Of EventDeviceAdded and its siblings: Alias. Of EventIOError: the image, the device alias, what was done (0 none, 1 pause, 2 report) and the host's reason.
	Path, Alias, Reason string
	Action              int

	MetadataType MetadataType // of EventMetadata
	MetadataURI  string       // of EventMetadata, for MetadataElement

	Tunables []Param // of EventTunable: what was set, by libvirt's names of parameters of that event

	// Of EventMonitor, the QEMU program's events.
	Name string
	Time time.Time
	Data json.RawMessage
}

// EventKind is what an Event is about, with libvirt's numbers (virDomainEventID) where libvirt has one.
type EventKind int

// Kinds of events.
const (
	EventLifecycle EventKind = 0
	EventReboot    EventKind = 1
	EventIOError   EventKind = 4 // also sent as IO_ERROR_REASON (8) with the reason
	EventBalloon   EventKind = 13
	EventTunable   EventKind = 17
	EventMetadata  EventKind = 23

	EventDeviceRemoved       EventKind = 15
	EventDeviceAdded         EventKind = 19
	EventDeviceRemovalFailed EventKind = 22

	EventMonitor EventKind = -1 // the QEMU program's DOMAIN_MONITOR_EVENT
)

// LifecycleType is virDomainEventType.
type LifecycleType int

// Types of EventLifecycle.
const (
	LifecycleDefined     LifecycleType = 0 // details: 0 added, 1 updated, 2 renamed
	LifecycleUndefined   LifecycleType = 1 // 0 removed, 1 renamed
	LifecycleStarted     LifecycleType = 2 // 0 booted, 2 restored
	LifecycleSuspended   LifecycleType = 3 // 0 paused, 2 I/O error, 4 restored paused
	LifecycleResumed     LifecycleType = 4 // 0 unpaused
	LifecycleStopped     LifecycleType = 5 // 0 shutdown, 1 destroyed, 2 crashed, 4 saved, 5 failed
	LifecycleShutdown    LifecycleType = 6 // 0 finished, 1 by the guest, 2 by the host
	LifecyclePMSuspended LifecycleType = 7
	LifecycleCrashed     LifecycleType = 8 // 0 panicked
)

// Details of lifecycle events.
const (
	DefinedAdded, DefinedUpdated, DefinedRenamed      = 0, 1, 2
	UndefinedRemoved, UndefinedRenamed                = 0, 1
	StartedBooted, StartedRestored                    = 0, 2
	SuspendedPaused, SuspendedIOError                 = 0, 2
	SuspendedRestored                                 = 4
	ResumedUnpaused                                   = 0
	StoppedShutdown, StoppedDestroyed, StoppedCrashed = 0, 1, 2
	StoppedSaved, StoppedFailed                       = 4, 5
	ShutdownFinished, ShutdownByGuest, ShutdownByHost = 0, 1, 2
	CrashedByPanic                                    = 0
)

// Subscribe calls f with every event from now on, in order, one at a time. f must not block and must not call the
// Manager's modifying methods; it may call queries. The returned function ends the subscription and returns after the
// last call of f has; it must not be called from f.
func (m *Manager) Subscribe(f func(Event)) (cancel func()) { return m.events.Subscribe(f) }

// FlushEvents returns when every event of before has been delivered. It must not be called from a subscriber.
func (m *Manager) FlushEvents() { m.events.Flush() }
