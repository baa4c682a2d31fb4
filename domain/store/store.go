package store

import (
	"encoding/json"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"virtd/domain"
)

// Entry is what memory holds of one definition: enough for lists and statistics, so that these never read XML.
type Entry struct {
	UUID          uuid.UUID
	Name          string
	Title         string
	Autostart     bool
	Memory        uint64 // KiB, maximum
	CurrentMemory uint64 // KiB
	VCPUs         int    // maximum
	CurrentVCPUs  int
}

// Status is the record of one running domain, by which the next virtd finds it again. It is written before the engine
// runs its first instruction and at every change of what it says.
type Status struct {
	Version   int       `json:"version"` // StatusVersion
	UUID      uuid.UUID `json:"uuid"`
	ID        int       `json:"id"`
	BootID    string    `json:"bootID"`    // /proc/sys/kernel/random/boot_id of the boot in which the engine started
	PID       int       `json:"pid"`       // of the engine
	StartTime uint64    `json:"startTime"` // field 22 of /proc/PID/stat, clock ticks since boot
	Monitor   string    `json:"monitor"`   // path of the engine's monitor socket
	State     int       `json:"state"`     // virDomainState
	Reason    int       `json:"reason"`
	Started   time.Time `json:"started"`
	Transient bool      `json:"transient,omitempty"` // no definition in the store
	// Autodestroy says that the domain lives no longer than the client that started it, which no virtd after this one has.
	Autodestroy bool `json:"autodestroy,omitempty"`
	// LiveXML is the running domain's XML, secrets included; InactiveXML is what applies at the next start of a
	// transient domain. Both are read with domain.Options.Stored, LiveXML also with Live.
	LiveXML     string `json:"liveXML"`
	InactiveXML string `json:"inactiveXML,omitempty"`
	// Driver is the driver's own record (what driver/kvm needs for adoption); the store does not look inside.
	Driver json.RawMessage `json:"driver,omitempty"`
}

// StatusVersion is the version of Status that this build writes. It reads every older one.
const StatusVersion = 1

// Problem is a file that could not be read. It is still there.
type Problem struct {
	Path string
	Err  error
}

// Store keeps definitions and status records. All methods are safe for concurrent use. A method that changes something
// returns after the change would survive a power cut (status records: a kill of virtd). If it fails, either the old or the
// new version is there, whole. Errors are *virterr.Error.
type Store interface {
	// Entries returns all definitions, sorted by name.
	Entries() []Entry
	// Entry returns one definition's entry.
	Entry(id uuid.UUID) (Entry, bool)
	// ByName returns the entry with that name.
	ByName(name string) (Entry, bool)
	// Load reads one definition. NoDomain if there is none.
	Load(id uuid.UUID) (*domain.Definition, error)
	// Save adds a definition or replaces the one with its UUID. OperationFailed if another UUID has its name.
	Save(def *domain.Definition) error
	// Delete removes a definition and its autostart mark. NoDomain if there is none.
	Delete(id uuid.UUID) error
	// SetAutostart marks a definition to be started with the host.
	SetAutostart(id uuid.UUID, on bool) error

	// SaveStatus writes the record of a running domain.
	SaveStatus(s Status) error
	// DeleteStatus removes it; a missing one is no error.
	DeleteStatus(id uuid.UUID) error
	// Statuses reads all records, sorted by id.
	Statuses() ([]Status, []Problem)

	// Problems returns the definition files that could not be read when the store was opened.
	Problems() []Problem

	// Close ends the store's own work. No other method may be called after it.
	Close() error
}

// Options says where a Dir is.
type Options struct {
	State    string       // definitions; created with mode 0700 if missing
	Run      string       // records of running domains; likewise
	Emulator string       // for domain.Options
	Log      *slog.Logger // nil: slog.Default
	// Waits is called when a change is about to wait for the disk. It must return soon. nil: nothing is done.
	Waits func()
	// Busy is called with true when several changes come one after the other, and with false when all of them are in files: in
	// between, what they take may be given back later than usual. It must return soon. Calls do not overlap. nil: nothing is done.
	Busy func(busy bool)
	// Rest is called when a busy time is over, with everything in files: what it left can be cleared away before somebody waits
	// again. much says that there were so many changes since it last was that what they took is worth giving back to the host;
	// for that it is called after many single changes, too. nil: nothing is done.
	Rest func(much bool)
}
