package manager

import "virtd/virterr"

// DefineFlags are virDomainDefineFlags.
type DefineFlags uint32

// DefineValidate checks the document against libvirt's vocabulary.
const DefineValidate DefineFlags = 1

// StartFlags are virDomainCreateFlags.
type StartFlags uint32

// Flags of Start and CreateXML.
const (
	StartPaused      StartFlags = 1
	StartAutodestroy StartFlags = 2  // the caller calls Autodestroy when its connection closes
	StartBypassCache StartFlags = 4  // of a managed save image: the host's page cache does not keep it
	StartForceBoot   StartFlags = 8  // discard the managed save image, if there is one
	StartValidate    StartFlags = 16 // CreateXML only
	StartResetNVRAM  StartFlags = 32 // accepted: there is no NVRAM
)

// UndefineFlags are virDomainUndefineFlagsValues. All are accepted: but for the first, there is nothing whose fate they
// could decide: no snapshot, checkpoint, NVRAM or TPM state.
type UndefineFlags uint32

// UndefineManagedSave removes the managed save image too.
const UndefineManagedSave UndefineFlags = 1

const undefineKnown UndefineFlags = 1 | 2 | 4 | 8 | 16 | 32 | 64

// SaveFlags are virDomainSaveRestoreFlags.
type SaveFlags uint32

// Flags of Save, Restore, ManagedSave and the calls about images. Running and Paused say what the guest does after a
// restore, instead of what it did when it was saved.
const (
	SaveBypassCache SaveFlags = 1 // the host's page cache does not keep the image
	SaveRunning     SaveFlags = 2
	SavePaused      SaveFlags = 4
	SaveResetNVRAM  SaveFlags = 8 // accepted: there is no NVRAM
	saveKnown                 = SaveBypassCache | SaveRunning | SavePaused
)

// DumpFlags are virDomainCoreDumpFlags.
type DumpFlags uint32

// Flags of CoreDump.
const (
	DumpCrash       DumpFlags = 1 // end the domain after it
	DumpLive        DumpFlags = 2 // the guest runs meanwhile
	DumpBypassCache DumpFlags = 4
	DumpReset       DumpFlags = 8
	DumpMemoryOnly  DumpFlags = 16
	dumpKnown                 = DumpCrash | DumpLive | DumpBypassCache | DumpReset | DumpMemoryOnly
)

// DestroyFlags are virDomainDestroyFlagsValues.
type DestroyFlags uint32

// Flags of Destroy.
const (
	DestroyGraceful   DestroyFlags = 1 // fail rather than kill an engine that does not answer
	DestroyRemoveLogs DestroyFlags = 2
)

// ShutdownFlags are virDomainShutdownFlagValues and, with the same numbers, virDomainRebootFlagValues.
type ShutdownFlags uint32

// Flags of Shutdown and Reboot. 0 is ACPI.
const (
	ShutdownACPI     ShutdownFlags = 1
	ShutdownAgent    ShutdownFlags = 2
	ShutdownInitctl  ShutdownFlags = 4
	ShutdownSignal   ShutdownFlags = 8
	ShutdownParavirt ShutdownFlags = 16
)

// Affect says which configuration a change or query is about (virDomainModificationImpact), with the extra bits of the
// memory, vCPU and device calls.
type Affect uint32

// Values of Affect. AffectCurrent is the live one of a running domain and the persistent one otherwise.
const (
	AffectCurrent Affect = 0
	AffectLive    Affect = 1
	AffectConfig  Affect = 2

	MemMaximum        Affect = 4  // SetMemory
	VCPUMaximum       Affect = 4  // VCPUs and SetVCPUs
	VCPUGuest         Affect = 8  // asks the guest agent
	VCPUHotpluggable  Affect = 16 // vCPUs that come can go while the domain runs
	affectBoth               = AffectLive | AffectConfig
	vcpuFlagsKnown           = affectBoth | VCPUMaximum | VCPUGuest | VCPUHotpluggable
	memoryFlagsKnown         = affectBoth | MemMaximum
	metadataFlagKnown        = affectBoth
)

// ConsoleFlags are virDomainConsoleFlags.
type ConsoleFlags uint32

// Flags of OpenConsole.
const (
	ConsoleForce ConsoleFlags = 1 // take the console from whoever has it
	ConsoleSafe  ConsoleFlags = 2 // accepted: a console has one session at a time anyway
)

// ListFlags are virConnectListAllDomainsFlags. Groups of flags narrow each other; in a group any match counts.
type ListFlags uint32

// Flags of List.
const (
	ListActive        ListFlags = 1
	ListInactive      ListFlags = 2
	ListPersistent    ListFlags = 4
	ListTransient     ListFlags = 8
	ListRunning       ListFlags = 16
	ListPaused        ListFlags = 32
	ListShutOff       ListFlags = 64
	ListOther         ListFlags = 128
	ListManagedSave   ListFlags = 256
	ListNoManagedSave ListFlags = 512
	ListAutostart     ListFlags = 1024
	ListNoAutostart   ListFlags = 2048
	ListHasSnapshot   ListFlags = 4096
	ListNoSnapshot    ListFlags = 8192
	ListHasCheckpoint ListFlags = 1 << 14
	ListNoCheckpoint  ListFlags = 1 << 15
)

// checkFlags refuses bits that the named libvirt function does not have.
func checkFlags[F ~uint32](flags, known F, function string) error {
	if extra := flags &^ known; extra != 0 {
		return virterr.New(virterr.InvalidArg, "unsupported flags (0x%x) in function %s", uint32(extra), function)
	}
	return nil
}
