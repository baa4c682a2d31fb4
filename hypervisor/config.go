package hypervisor

import (
	"virtd/hypervisor/block"
	"virtd/hypervisor/memory"
)

// ConfigVersion is the version of Config that this engine executes. An engine refuses a newer one; it keeps executing
// older ones.
const ConfigVersion = 1

// FileName names one of the descriptors that the engine inherits. Config.Files gives its number; "" means none.
type FileName string

// FirstFile is the descriptor of Config.Files[0]; the ones after it follow in order.
const FirstFile = 3

// Config is one machine, complete: what virtd hands to virtd-vmm as JSON and what the engine executes. Host resources
// appear only as names of inherited descriptors, never as paths. A Config is not changed after the engine read it.
type Config struct {
	Version    int        `json:"version"`
	Name       string     `json:"name"`    // the domain's name, for logs and thread names
	UUID       string     `json:"uuid"`    // SMBIOS system UUID, canonical text
	Machine    string     `json:"machine"` // a machine type: MachineQ35, MachinePC or one of before
	Files      []FileName `json:"files"`   // Files[i] is descriptor FirstFile+i
	KVM        FileName   `json:"kvm"`     // /dev/kvm
	Monitor    FileName   `json:"monitor"` // listening unix stream socket
	ExitRecord FileName   `json:"exitRecord"`
	Paused     bool       `json:"paused,omitempty"` // do not run vCPUs before the monitor's cont
	// Incoming is a saved machine to go on with instead of booting, read from the descriptor's position on.
	Incoming FileName `json:"incoming,omitempty"`

	CPU    CPU    `json:"cpu"`
	Memory Memory `json:"memory"`
	Boot   Boot   `json:"boot"`
	Clock  Clock  `json:"clock"`

	OnReboot Action `json:"onReboot"` // guest reset and triple fault
	OnCrash  Action `json:"onCrash"`  // guest panic reported through pvpanic

	PVPanic   bool       `json:"pvpanic,omitempty"` // pvpanic device at port 0x505
	RootPorts []RootPort `json:"rootPorts,omitempty"`
	// PCIHole64 is how many bytes the 64-bit window of PCI has, rounded up to a power of two; 0 follows from the machine type.
	PCIHole64 uint64    `json:"pciHole64,omitempty"`
	Serials   []Serial  `json:"serials,omitempty"`
	Consoles  []Console `json:"consoles,omitempty"` // virtio-console ports
	Disks     []Disk    `json:"disks,omitempty"`
	// VhostUserDisks are block devices whose requests another process serves.
	VhostUserDisks []VhostUserDisk `json:"vhostUserDisks,omitempty"`
	NICs           []NIC           `json:"nics,omitempty"`
	Balloon        *Balloon        `json:"balloon,omitempty"`
	RNGs           []RNG           `json:"rngs,omitempty"`
	Keyboards      []Keyboard      `json:"keyboards,omitempty"`
	VFIO           FileName        `json:"vfio,omitempty"`    // /dev/vfio/vfio, when there are Hostdevs
	IOMMUFD        FileName        `json:"iommufd,omitempty"` // /dev/iommu instead, when they have a Cdev
	Hostdevs       []Hostdev       `json:"hostdevs,omitempty"`
	Confine        Confine         `json:"confine"`
}

// Action is what the engine does at a guest event.
type Action string

// Actions. Stopping ends the engine with the reason in the exit record; virtd decides what follows.
const (
	ActionReset    Action = "reset"    // start the machine again in place
	ActionStop     Action = "stop"     // leave
	ActionPreserve Action = "preserve" // pause and wait for the monitor
)

// CPU describes the processors.
type CPU struct {
	Count  int `json:"count"`  // vCPUs the machine can have, 1 to 64
	Online int `json:"online"` // vCPUs present at boot, 1 to Count
	// Present are the numbers of those, ascending; the first is 0. Empty is the first Online ones.
	Present  []int             `json:"present,omitempty"`
	Topology Topology          `json:"topology"`
	Mode     CPUMode           `json:"mode"`
	Model    string            `json:"model,omitempty"`    // for CPUCustom: a name of hypervisor/cpuid's table
	Vendor   string            `json:"vendor,omitempty"`   // for CPUCustom, optional: GenuineIntel, AuthenticAMD
	Features map[string]string `json:"features,omitempty"` // libvirt feature name: force, require, optional, disable, forbid
	// Paravirt switches KVM's paravirtual features by libvirt/QEMU names (kvmclock, kvm-pv-eoi, kvm-pv-tlb-flush,
	// kvm-pv-ipi, kvm-steal-time, kvm-asyncpf, kvm-pv-unhalt, kvm-poll-control). One that is absent is on when the
	// host has it.
	Paravirt  map[string]bool `json:"paravirt,omitempty"`
	KVMHidden bool            `json:"kvmHidden,omitempty"` // no KVM signature and no paravirtual features
	NoAPIC    bool            `json:"noAPIC,omitempty"`
	NoACPI    bool            `json:"noACPI,omitempty"`
	NoPAE     bool            `json:"noPAE,omitempty"`
	// PhysBits of 0 is the host's; else the guest's physical address bits.
	PhysBits int `json:"physBits,omitempty"`
}

// Topology is how CPU.Count vCPUs are spread; the product of the fields equals it.
type Topology struct {
	Sockets, Dies, Clusters, Cores, Threads int
}

// CPUMode says where the guest's CPUID comes from.
type CPUMode string

// CPU modes, as libvirt's <cpu mode=>. host-model arrives expanded as CPUCustom.
const (
	CPUHostPassthrough CPUMode = "host-passthrough"
	CPUMaximum         CPUMode = "maximum"
	CPUCustom          CPUMode = "custom"
)

// Memory describes guest RAM.
type Memory struct {
	Size    uint64         `json:"size"` // bytes, a multiple of 2 MiB where huge pages back it, else of 4 KiB
	Backing memory.Backing `json:"backing"`
}

// Boot is a kernel to boot directly.
type Boot struct {
	Kernel  FileName `json:"kernel"` // bzImage or ELF
	Initrd  FileName `json:"initrd,omitempty"`
	Cmdline string   `json:"cmdline,omitempty"`
}

// Clock describes time in the guest.
type Clock struct {
	// RTCOffset in seconds is added to UTC to give what the RTC shows: 0 for clock utc, the zone's for localtime,
	// the adjustment for variable.
	RTCOffset int64 `json:"rtcOffset,omitempty"`
	NoKVMClk  bool  `json:"noKvmClock,omitempty"` // <timer name='kvmclock' present='no'/>
	PIT       bool  `json:"pit"`                  // i8254
	// TSCKHz of 0 is the host's.
	TSCKHz uint64 `json:"tscKHz,omitempty"`
	// AdjustOnResume: the wall time of the RTC has gone on when a paused machine resumes; else it stood still too.
	// Monotonic time (kvmclock, TSC, ACPI timer) always stands still, and kvmclock's wall clock is always the host's.
	AdjustOnResume bool `json:"adjustOnResume,omitempty"`
}

// PCIAddress is where a device sits. Bus is libvirt's controller index: 0 is the root bus, any other the RootPort with
// that Index.
type PCIAddress struct {
	Bus      uint8 `json:"bus"`
	Slot     uint8 `json:"slot"`     // 0 to 31
	Function uint8 `json:"function"` // 0 to 7
}

// RootPort is a PCI Express root port of the q35 machine.
type RootPort struct {
	ID      string     `json:"id"`    // alias, pci.1
	Index   uint8      `json:"index"` // controller index, 1 to 255
	Address PCIAddress `json:"address"`
	Multi   bool       `json:"multifunction,omitempty"`
	Chassis uint8      `json:"chassis"`
	Port    uint8      `json:"port"`
	// Memory is how many bytes of 32-bit memory it reserves at least for devices that come later; 0 is 2 MiB.
	Memory uint64 `json:"memory,omitempty"`
}

// Chardev is the host side of a serial port or console.
type Chardev struct {
	Type string   `json:"type"` // pty, unix, file, null
	File FileName `json:"file,omitempty"`
	// Log holds up to two files that take turns when LogMax bytes are reached; with one there is no limit.
	Log    []FileName `json:"log,omitempty"`
	LogMax int64      `json:"logMax,omitempty"` // bytes, 0 is unlimited
	// Server: File of type unix is a listening socket; else it is connected.
	Server bool `json:"server,omitempty"`
}

// Serial is a 16550A port, COM1 to COM4.
type Serial struct {
	ID      string  `json:"id"`
	Port    int     `json:"port"` // 0 is COM1
	Chardev Chardev `json:"chardev"`
}

// Console is a virtio console device with one port (hvc0 in a Linux guest).
type Console struct {
	ID      string     `json:"id"`
	Address PCIAddress `json:"address"`
	Chardev Chardev    `json:"chardev"`
	Transport
}

// Disk is a virtio block device.
type Disk struct {
	ID      string     `json:"id"`
	Address PCIAddress `json:"address"`
	File    FileName   `json:"file"`
	Format  string     `json:"format"` // raw, qcow2
	// Backing are the images below File, the nearest first. What File's header calls its backing file is Backing[0],
	// and so on: names in headers are never opened.
	Backing      []BackingImage `json:"backing,omitempty"`
	ReadOnly     bool           `json:"readOnly,omitempty"`
	Serial       string         `json:"serial,omitempty"`       // at most 20 bytes
	Cache        string         `json:"cache,omitempty"`        // none, writeback, writethrough, directsync, unsafe
	IO           string         `json:"io,omitempty"`           // native, threads, io_uring; empty is io_uring when the host has it
	Discard      bool           `json:"discard,omitempty"`      // offer discard and write-zeroes with unmap
	DetectZeroes string         `json:"detectZeroes,omitempty"` // off, on, unmap
	Queues       int            `json:"queues,omitempty"`       // 0 is one for each vCPU, at most 16
	QueueSize    int            `json:"queueSize,omitempty"`    // entries, power of two to 1024; 0 is 256
	LogicalBlock int            `json:"logicalBlock,omitempty"` // bytes; 0 is 512
	PhysBlock    int            `json:"physBlock,omitempty"`
	Throttle     *Throttle      `json:"throttle,omitempty"` // nil: no limits
	Transport
}

// Throttle limits a disk's requests.
type Throttle struct {
	// Group names disks of the machine that share one set of limits, so that what one uses the others cannot. All of a group
	// have the limits that one of them got last. "" is a disk of its own.
	Group string `json:"group,omitempty"`
	block.Limits
}

// BackingImage is an image of a chain, which is only read.
type BackingImage struct {
	File   FileName `json:"file"`
	Format string   `json:"format"` // raw, qcow2
}

// VhostUser is a process that serves the queues of a device. It maps guest RAM, which must be shared memory.
type VhostUser struct {
	Socket FileName `json:"socket"` // connected unix stream socket
	// Listen is a listening unix stream socket on which the engine takes the next process when one has gone; empty: whoever
	// made Socket brings another.
	Listen FileName `json:"listen,omitempty"`
}

// VhostUserDisk is a virtio block device of a vhost-user back end, which has the image and knows its size.
type VhostUserDisk struct {
	ID        string     `json:"id"`
	Address   PCIAddress `json:"address"`
	VhostUser VhostUser  `json:"vhostUser"`
	Queues    int        `json:"queues,omitempty"`    // 0 is one for each vCPU, as far as the process serves them, at most 16
	QueueSize int        `json:"queueSize,omitempty"` // entries, power of two from 4 to 1024; 0 is 128
	Transport
}

// NIC is a virtio network device.
type NIC struct {
	ID      string     `json:"id"`
	Address PCIAddress `json:"address"`
	MAC     string     `json:"mac"`
	Driver  string     `json:"driver"` // qemu (userspace) or vhost; empty for VhostUser
	Queues  int        `json:"queues"` // queue pairs, 1 to 16
	// Taps has a descriptor for each queue pair, with vnet headers; Vhosts likewise for the driver vhost.
	Taps []FileName `json:"taps,omitempty"`
	// Stream is a connected stream socket in place of taps, over which each frame follows its length of 32 bits in network
	// byte order. There is one queue pair then.
	Stream FileName `json:"stream,omitempty"`
	// VhostUser moves the packets in place of taps.
	VhostUser   *VhostUser `json:"vhostUser,omitempty"`
	Vhosts      []FileName `json:"vhosts,omitempty"`
	MTU         int        `json:"mtu,omitempty"` // 0 is not offered
	LinkDown    bool       `json:"linkDown,omitempty"`
	RxQueueSize int        `json:"rxQueueSize,omitempty"` // 0 is 256
	TxQueueSize int        `json:"txQueueSize,omitempty"`
	// Offloads switches by libvirt's names under <driver><host/> and <guest/>: "host.csum", "guest.tso4"... Absent is on.
	Offloads map[string]bool `json:"offloads,omitempty"`
	// Steering offers receive-side scaling (VIRTIO_NET_F_RSS). There are Taps then.
	Steering *Steering `json:"steering,omitempty"`
	// HashReport offers VIRTIO_NET_F_HASH_REPORT. It needs the driver qemu.
	HashReport bool `json:"hashReport,omitempty"`
	// NoEventIdx takes VIRTIO_F_EVENT_IDX away. Standby offers VIRTIO_NET_F_STANDBY: the guest uses the device in place of
	// another with the same MAC address, when that one is not there.
	NoEventIdx bool `json:"noEventIdx,omitempty"`
	Standby    bool `json:"standby,omitempty"`
	Transport
}

// Steering is by what the kernel spreads packets over the queues of a NIC as its driver wants.
type Steering struct {
	Program FileName `json:"program"` // BPF program for the tap
	Map     FileName `json:"map"`     // its BPF map, which the engine maps to memory
}

// Transport are a virtio device's wishes of the PCI transport.
type Transport struct {
	// AccessPlatform offers VIRTIO_F_ACCESS_PLATFORM, and refuses a driver that does not take it.
	AccessPlatform bool `json:"accessPlatform,omitempty"`
	// PagePerVQ gives each queue's doorbell a page of its own.
	PagePerVQ bool `json:"pagePerVQ,omitempty"`
	// NoIOEventFD leaves doorbells to the vCPU threads.
	NoIOEventFD bool `json:"noIOEventFD,omitempty"`
	// Packed offers VIRTIO_F_RING_PACKED: the driver may choose packed virtqueues in place of split ones. Where another process
	// or the kernel serves the queues, it is offered if they serve packed ones.
	Packed bool `json:"packed,omitempty"`
}

// Balloon is the virtio memory balloon.
type Balloon struct {
	ID            string     `json:"id"`
	Address       PCIAddress `json:"address"`
	Target        uint64     `json:"target"`                // bytes of RAM the guest should keep; Memory.Size is an empty balloon
	StatsPeriod   int        `json:"statsPeriod,omitempty"` // seconds, 0 is on demand only
	DeflateOnOOM  bool       `json:"deflateOnOOM,omitempty"`
	FreeReporting bool       `json:"freePageReporting,omitempty"`
	Transport
}

// RNG is a virtio entropy device.
type RNG struct {
	ID      string     `json:"id"`
	Address PCIAddress `json:"address"`
	File    FileName   `json:"file,omitempty"` // empty: getrandom(2)
	// RateBytes each RatePeriod milliseconds limit what the guest can draw; 0 is no limit.
	RateBytes  uint64 `json:"rateBytes,omitempty"`
	RatePeriod uint64 `json:"ratePeriod,omitempty"`
	Transport
}

// Keyboard is a virtio input device that is a keyboard.
type Keyboard struct {
	ID      string     `json:"id"`
	Address PCIAddress `json:"address"`
	Transport
}

// Hostdev is a PCI function of the host, given to the guest through VFIO. With one the balloon gives nothing back to the
// host, because all of guest RAM is pinned.
type Hostdev struct {
	ID      string     `json:"id"`
	Address PCIAddress `json:"address"`
	Host    string     `json:"host"` // the function's address on the host: 0000:01:00.0
	// Group is its IOMMU group, /dev/vfio/N; those of one group may have one each. GroupOf names another device of the
	// machine instead, which has it already: a group cannot be opened twice.
	Group   FileName `json:"group,omitempty"`
	GroupOf string   `json:"groupOf,omitempty"`
	// Cdev is the device itself for iommufd, /dev/vfio/devices/vfioN, in place of its group. All of a machine have one or none.
	Cdev FileName `json:"cdev,omitempty"`
	// ROM is a file with an expansion ROM in place of the device's own; NoROM hides that.
	ROM   FileName `json:"rom,omitempty"`
	NoROM bool     `json:"noROM,omitempty"`
	Multi bool     `json:"multifunction,omitempty"` // guests look for other functions in its slot
}

// Confine says how far the engine locks itself in before the guest's first instruction. It always sets no_new_privs.
type Confine struct {
	Seccomp  bool `json:"seccomp"`
	Landlock bool `json:"landlock"`
}
