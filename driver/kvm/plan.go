package kvm

import (
	"strconv"
	"time"

	"libvirt.org/go/libvirtxml"

	"virtd/domain"
	"virtd/hypervisor"
	"virtd/hypervisor/memory"
	"virtd/network/bridge"
	"virtd/network/firewall"
	"virtd/network/portconf"
	"virtd/nodedev"
	"virtd/virterr"
)

// HostFacts is what Plan takes into account about the host. The same definition and facts always give the same plan.
type HostFacts struct {
	VhostNet bool           // /dev/vhost-net can be opened
	Now      time.Time      // for a clock with an absolute start
	Local    *time.Location // the host's zone, for clock offset localtime; nil is UTC
	// ConsoleLogMax is the size in bytes at which a console log turns to its second file; 0 is unlimited.
	ConsoleLogMax int64
	Confine       hypervisor.Confine
}

// ResourceKind is what kind of thing a Resource is.
type ResourceKind string

// The kinds of resources.
const (
	ResourceKVM     ResourceKind = "kvm"        // /dev/kvm
	ResourceMonitor ResourceKind = "monitor"    // listening unix socket at a path the driver chooses
	ResourceExit    ResourceKind = "exitRecord" // file at a path the driver chooses
	ResourceKernel  ResourceKind = "kernel"     // Path, read-only
	ResourceInitrd  ResourceKind = "initrd"     // Path, read-only
	ResourceDisk    ResourceKind = "disk"       // Path, locked
	ResourceTap     ResourceKind = "tap"        // Tap, one file for each queue pair
	ResourceMacvtap ResourceKind = "macvtap"    // Macvtap, one file for each queue pair
	ResourceBPF     ResourceKind = "bpf"        // BPF program for the tap of an interface, and its map
	ResourceUserNet ResourceKind = "usernet"    // UserNet, the socket of a process that is started
	ResourceVhost   ResourceKind = "vhost"      // /dev/vhost-net, one file for each queue pair
	// ResourceVhostUser is the socket of a process that serves a device: VhostUser.
	ResourceVhostUser ResourceKind = "vhostuser"
	ResourceChardev   ResourceKind = "chardev" // pty, unix socket or file
	ResourceLog       ResourceKind = "log"     // Path, append or truncate
	ResourceRNG       ResourceKind = "rng"     // Path, read-only
	ResourceVFIO      ResourceKind = "vfio"    // the container of all host devices
	ResourceIOMMUFD   ResourceKind = "iommufd" // /dev/iommu in its place
	ResourceHostdev   ResourceKind = "hostdev" // Hostdev: its IOMMU group, or with iommufd itself
	ResourceROM       ResourceKind = "rom"     // Path, read-only
)

// Resource is one thing of the host that virtd opens for the engine. Files names its descriptors in the Config.
type Resource struct {
	Kind  ResourceKind          `json:"kind"`
	Files []hypervisor.FileName `json:"files"`
	Alias string                `json:"alias,omitempty"` // of the device it is for
	Path  string                `json:"path,omitempty"`

	Disk      *DiskResource      `json:"disk,omitempty"`
	Tap       *TapResource       `json:"tap,omitempty"`
	Macvtap   *MacvtapResource   `json:"macvtap,omitempty"`
	UserNet   *UserNetResource   `json:"usernet,omitempty"`
	Chardev   *ChardevResource   `json:"chardev,omitempty"`
	VhostUser *VhostUserResource `json:"vhostuser,omitempty"`
	Hostdev   *nodedev.Claim     `json:"hostdev,omitempty"`
	// Packed says that vhost-net is to serve packed virtqueues; else it need not have them.
	Packed bool `json:"packed,omitempty"`
	// Append keeps what is in a log; else it is emptied at start.
	Append bool `json:"append,omitempty"`
}

// DiskResource says how an image is opened and locked.
type DiskResource struct {
	Block     bool `json:"block,omitempty"`     // must be a block device; else a regular file
	ReadOnly  bool `json:"readOnly,omitempty"`  // opened for reading; others may read too
	Shareable bool `json:"shareable,omitempty"` // others may write too
	Direct    bool `json:"direct,omitempty"`    // O_DIRECT
	// Chain is set for formats whose header may name a backing file, with what the XML says of the chain: these files
	// are found when the image is open.
	Chain *ChainResource `json:"chain,omitempty"`
}

// TapResource says what tap an interface gets.
type TapResource struct {
	Name      string `json:"name,omitempty"`   // "" is generated
	Bridge    string `json:"bridge,omitempty"` // "" is none
	MAC       string `json:"mac"`
	MTU       int    `json:"mtu,omitempty"`
	Queues    int    `json:"queues"`
	Unmanaged bool   `json:"unmanaged,omitempty"` // exists and stays as it is
	Isolated  bool   `json:"isolated,omitempty"`  // does not reach other isolated ports of its bridge
	Device    string `json:"device,omitempty"`    // of which it is opened; "" is /dev/net/tun
	Steered   bool   `json:"steered,omitempty"`   // must take a BPF program that chooses queues
	Coalesce  uint32 `json:"coalesce,omitempty"`  // frames that the guest's are gathered into at most

	VLAN      *portconf.VLAN      `json:"vlan,omitempty"`
	Bandwidth *portconf.Bandwidth `json:"bandwidth,omitempty"`
	Filter    *firewall.Filter    `json:"filter,omitempty"` // what the guest may send and get
}

// MacvtapResource says what macvtap an interface gets.
type MacvtapResource struct {
	Name   string             `json:"name,omitempty"` // "" is generated
	Parent string             `json:"parent"`         // the host's link
	Mode   bridge.MacvtapMode `json:"mode"`
	MAC    string             `json:"mac"`
	MTU    int                `json:"mtu,omitempty"`
	Queues int                `json:"queues"`

	Bandwidth *portconf.Bandwidth `json:"bandwidth,omitempty"`
}

// UserNetResource says what the process behind an interface of type user does.
type UserNetResource struct {
	MAC     string             `json:"mac"`
	MTU     int                `json:"mtu,omitempty"`
	Network domain.UserNetwork `json:"network"`
}

// ChardevResource says what the host side of a serial port or console is.
type ChardevResource struct {
	Type   string `json:"type"`             // pty, unix, file
	Listen bool   `json:"listen,omitempty"` // unix: bind and listen at Path; else connect to it
	Append bool   `json:"append,omitempty"` // file
}

// planner collects a plan.
type planner struct {
	def   *domain.Definition
	view  *libvirtxml.Domain
	facts HostFacts
	cfg   hypervisor.Config
	res   []Resource
}

// Plan turns the definition of a domain about to run (domain.Definition.Start has given it an id and aliases) into what
// the engine executes and the list of host resources to open for it, in the order of Config.Files. It touches nothing.
func Plan(def *domain.Definition, facts HostFacts) (hypervisor.Config, []Resource, error) {
	p := &planner{def: def, view: def.View(), facts: facts}
	if err := def.Check(); err != nil {
		return hypervisor.Config{}, nil, err
	}
	for _, step := range []func() error{p.machine, p.boot, p.memory, p.cpu, p.clock, p.actions, p.devices} {
		if err := step(); err != nil {
			return hypervisor.Config{}, nil, err
		}
	}
	return p.cfg, p.res, nil
}

// add notes a resource and gives its descriptors their places.
func (p *planner) add(r Resource) {
	p.res = append(p.res, r)
	p.cfg.Files = append(p.cfg.Files, r.Files...)
}

func (p *planner) machine() error {
	p.cfg.Version = hypervisor.ConfigVersion
	p.cfg.Name = p.def.Name()
	p.cfg.UUID = p.def.UUID().String()
	p.cfg.Machine = p.def.Machine()
	p.cfg.KVM, p.cfg.Monitor, p.cfg.ExitRecord = "kvm", "monitor", "exit"
	p.cfg.Confine = p.facts.Confine
	p.cfg.Paused = true // the manager lets it run when everything is recorded
	p.add(Resource{Kind: ResourceKVM, Files: []hypervisor.FileName{"kvm"}, Path: "/dev/kvm"})
	p.add(Resource{Kind: ResourceMonitor, Files: []hypervisor.FileName{"monitor"}})
	p.add(Resource{Kind: ResourceExit, Files: []hypervisor.FileName{"exit"}})
	return nil
}

func (p *planner) boot() error {
	os := p.view.OS
	if os == nil || os.Kernel == "" || os.Loader != nil || os.Firmware != "" {
		return virterr.New(virterr.ConfigUnsupported,
			"domain '%s' boots through firmware, which is not available; give it a kernel: <os><kernel>, <initrd> and <cmdline>", p.def.Name())
	}
	p.cfg.Boot = hypervisor.Boot{Kernel: "kernel", Cmdline: os.Cmdline}
	p.add(Resource{Kind: ResourceKernel, Files: []hypervisor.FileName{"kernel"}, Path: os.Kernel})
	if os.Initrd != "" {
		p.cfg.Boot.Initrd = "initrd"
		p.add(Resource{Kind: ResourceInitrd, Files: []hypervisor.FileName{"initrd"}, Path: os.Initrd})
	}
	return nil
}

// memory rounds RAM up to what the backing takes: whole huge pages, else whole MiB, as QEMU's users are used to.
func (p *planner) memory() error {
	backing := memory.Backing{Kind: memory.Anonymous}
	align := uint64(1 << 20)
	if mb := p.view.MemoryBacking; mb != nil {
		if mb.MemorySource != nil && (mb.MemorySource.Type == "memfd" || mb.MemorySource.Type == "file") {
			backing.Kind = memory.Memfd
		}
		if mb.MemoryAccess != nil && mb.MemoryAccess.Mode == "shared" {
			backing.Kind, backing.Shared = memory.Memfd, true
		}
		if mb.MemoryHugePages != nil {
			backing.Kind, align = memory.HugeTLB, 2<<20
			if pages := mb.MemoryHugePages.Hugepages; len(pages) > 0 {
				backing.HugePage = uint64(pages[0].Size) << 10
				align = max(align, backing.HugePage)
			}
		}
		backing.Locked = mb.MemoryLocked != nil
		backing.NoMerge = mb.MemoryNosharepages != nil
		backing.Prealloc = mb.MemoryAllocation != nil && mb.MemoryAllocation.Mode == "immediate"
	}
	if err := p.shareMemory(&backing); err != nil {
		return err
	}
	if m := p.view.Memory; m != nil {
		backing.Dump = m.DumpCore == "on"
	}
	size := p.def.Memory() << 10
	p.cfg.Memory = hypervisor.Memory{Size: (size + align - 1) / align * align, Backing: backing}
	return nil
}

func (p *planner) actions() error {
	p.cfg.OnReboot = hypervisor.ActionReset
	if p.view.OnReboot == "destroy" {
		p.cfg.OnReboot = hypervisor.ActionStop
	}
	switch p.view.OnCrash {
	case "restart":
		p.cfg.OnCrash = hypervisor.ActionReset
	case "preserve":
		p.cfg.OnCrash = hypervisor.ActionPreserve
	default:
		p.cfg.OnCrash = hypervisor.ActionStop
	}
	return nil
}

func (p *planner) clock() error {
	c := p.view.Clock
	p.cfg.Clock = hypervisor.Clock{PIT: true, AdjustOnResume: true}
	offset, err := rtcOffset(c, p.facts)
	if err != nil {
		return err
	}
	p.cfg.Clock.RTCOffset = offset
	if c == nil {
		return nil
	}
	for _, t := range c.Timer {
		switch t.Name {
		case "kvmclock":
			p.cfg.Clock.NoKVMClk = t.Present == "no"
			p.paravirt("kvmclock", t.Present != "no")
		case "pit":
			p.cfg.Clock.PIT = t.Present != "no"
		case "tsc":
			p.cfg.Clock.TSCKHz = t.Frequency / 1000
		}
	}
	return nil
}

// rtcOffset returns what <clock> adds to UTC, in seconds.
func rtcOffset(c *libvirtxml.DomainClock, facts HostFacts) (int64, error) {
	if c == nil {
		return 0, nil
	}
	local := facts.Local
	if local == nil {
		local = time.UTC
	}
	zone := func(l *time.Location) int64 {
		_, seconds := facts.Now.In(l).Zone()
		return int64(seconds)
	}
	switch c.Offset {
	case "localtime":
		return zone(local), nil
	case "timezone":
		l, err := time.LoadLocation(c.TimeZone)
		if err != nil {
			return 0, virterr.New(virterr.ConfigUnsupported, "clock time zone '%s' is not known on this host", c.TimeZone)
		}
		return zone(l), nil
	case "variable":
		seconds, err := strconv.ParseInt(c.Adjustment, 10, 64)
		if err != nil {
			return 0, virterr.New(virterr.XMLError, "clock adjustment '%s' is not a number of seconds", c.Adjustment)
		}
		if c.Basis == "localtime" {
			seconds += zone(local)
		}
		return seconds, nil
	case "absolute":
		return int64(c.Start) - facts.Now.Unix(), nil
	}
	return 0, nil
}
