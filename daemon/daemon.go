package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/daemon/nodeinfo"
	"virtd/domain"
	"virtd/domain/manager"
	"virtd/hostcheck"
	"virtd/network"
	"virtd/network/bridge"
	"virtd/network/hostif"
	"virtd/nodedev"
	"virtd/rpc"
	"virtd/secret"
	"virtd/storage"
	"virtd/virterr"
)

// Versions that clients are told, as major*1000000 + minor*1000 + release. They are compatibility values: clients decide by
// them what they may ask for, not what virtd is. virtd's own version is a message of its own.
const (
	libVersion = 11_003_000 // the libvirt whose protocol this is: 11.3.0
	hvVersion  = 8_002_002  // what nova and virt-install expect of a QEMU for q35: 8.2.2
)

// Config is what a Daemon works with.
type Config struct {
	Manager  *manager.Manager
	Storage  *storage.Manager  // nil: no procedures for storage
	Networks *network.Manager  // nil: there are none, and no procedures to make any
	Node     *nodeinfo.Node    // nil: this host
	Devices  *nodedev.Manager  // the host's devices; nil: not supported
	Hostdevs *nodedev.Hostdevs // takes them from the host and gives them back; nil: not supported
	CPU      domain.HostCPU    // what host-model is here; nil: not told
	Emulator string            // the engine's path, for capabilities and <emulator>
	URI      string            // qemu:///system or qemu:///session
	Secrets  *secret.Manager   // nil: no procedures for secrets
	// Interfaces lists the host's network interfaces; nil: no procedures for them.
	Interfaces func() ([]*hostif.Interface, error)
	Bridges    Bridges                                // of the host, to change; nil: not supported
	Links      func() ([]bridge.Link, error)          // of the host; nil: TAP_LIST is not supported
	HostCheck  func(context.Context) hostcheck.Report // nil: HOST_CHECK is not supported
	Log        *slog.Logger                           // nil: slog.Default

	// Neighbours returns the addresses this host knows behind a link-layer address; nil: none.
	Neighbours func(net.HardwareAddr) ([]netip.Addr, error)
}

// Daemon holds what is common to all connections. Make one with New, Register its procedures, and Close it after the rpc
// server is done.
type Daemon struct {
	cfg     Config
	mgr     *manager.Manager
	node    *nodeinfo.Node
	devices *nodedev.Manager // nil: not supported
	log     *slog.Logger
	events  *subscriptions

	unsubscribe []func()

	capsOnce sync.Once
	capsCPU  *domain.CPUModel // what the host CPU is, asked once
}

// New returns a daemon over a manager that is open.
func New(cfg Config) *Daemon {
	if cfg.Node == nil {
		cfg.Node = nodeinfo.Local()
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Neighbours == nil {
		cfg.Neighbours = func(net.HardwareAddr) ([]netip.Addr, error) { return nil, nil }
	}
	if cfg.Emulator == "" {
		cfg.Emulator = domain.DefaultEmulator
	}
	if cfg.URI == "" {
		cfg.URI = "qemu:///system"
	}
	d := &Daemon{cfg: cfg, mgr: cfg.Manager, node: cfg.Node, devices: cfg.Devices, log: cfg.Log}
	d.events = newSubscriptions(func() func() { return d.mgr.Subscribe(d.deliver) }, d.flushEvents)
	d.unsubscribe = append(d.unsubscribe, d.events.close)
	if d.devices != nil {
		d.unsubscribe = append(d.unsubscribe, d.devices.Subscribe(d.deliverDevice))
	}
	if cfg.Storage != nil {
		cfg.Storage.AskUsers(cfg.Manager.ImageUsers)
		d.unsubscribe = append(d.unsubscribe, cfg.Storage.Subscribe(d.deliverPool))
	}
	if cfg.Networks != nil {
		d.unsubscribe = append(d.unsubscribe, cfg.Networks.Subscribe(d.deliverNetwork))
	}
	if cfg.Secrets != nil {
		d.unsubscribe = append(d.unsubscribe, cfg.Secrets.Subscribe(d.deliverSecret))
	}
	return d
}

// flushEvents waits until what happened before has been told. Devices and secrets tell at once.
func (d *Daemon) flushEvents() {
	d.mgr.FlushEvents()
	if d.cfg.Storage != nil {
		d.cfg.Storage.FlushEvents()
	}
	if d.cfg.Networks != nil {
		d.cfg.Networks.FlushEvents()
	}
}

// Close stops delivering events.
func (d *Daemon) Close() {
	for _, end := range d.unsubscribe {
		end()
	}
}

// Register adds the procedures to a registry.
func (d *Daemon) Register(reg *rpc.Registry) {
	d.registerConnect(reg)
	d.registerHost(reg)
	d.registerHostMemory(reg)
	d.registerCPUs(reg)
	d.registerNodeDevices(reg)
	d.registerHostdevs(reg)
	d.registerDomains(reg)
	d.registerLifecycle(reg)
	d.registerSave(reg)
	d.registerDefinition(reg)
	d.registerMemory(reg)
	d.registerVCPUs(reg)
	d.registerStats(reg)
	d.registerTuning(reg)
	d.registerIOTune(reg)
	d.registerQueries(reg)
	d.registerSnapshots(reg)
	d.registerAgent(reg)
	d.registerDevices(reg)
	d.registerConsole(reg)
	d.registerGraphics(reg)
	d.registerEvents(reg)
	d.registerStoragePools(reg)
	d.registerStorageVolumes(reg)
	d.registerNetworks(reg)
	d.registerSecrets(reg)
	d.registerInterfaces(reg)
	d.registerQEMU(reg)
	d.registerAbsent(reg)
	d.registerPrivate(reg)
	d.registerBridges(reg)
	reg.OnClose(d.closed)
}

// session is what the daemon keeps for one open connection.
type session struct {
	mu          sync.Mutex
	autodestroy map[uuid.UUID]int // domains to destroy when the connection ends, and the id of the life that ends then
}

// closed runs after a connection's last call.
func (d *Daemon) closed(c *rpc.Conn) {
	d.events.drop(c)
	s, ok := c.Session().(*session)
	if !ok {
		return
	}
	s.mu.Lock()
	doomed := s.autodestroy
	s.autodestroy = nil
	s.mu.Unlock()
	for name, id := range doomed {
		dom, err := d.mgr.LookupByUUID(name)
		if err != nil {
			continue // it is gone already
		}
		if err := dom.Autodestroy(context.Background(), id); err != nil && !virterr.Is(err, virterr.OperationInvalid) && !virterr.Is(err, virterr.NoDomain) {
			d.log.Error("cannot destroy a domain whose client left", "domain", dom.Name(), "error", err)
		}
	}
}

// autodestroy notes that the life that a domain has now lasts no longer than the connection.
func (d *Daemon) autodestroy(c *rpc.Conn, dom *manager.Domain) {
	s, ok := c.Session().(*session)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.autodestroy == nil {
		s.autodestroy = map[uuid.UUID]int{}
	}
	s.autodestroy[dom.UUID()] = dom.Ref().ID
}

// domain finds the domain that a call is about.
func (d *Daemon) domain(dom libvirt.Domain) (*manager.Domain, error) {
	return d.mgr.Domain(manager.Ref{Name: dom.Name, UUID: uuid.UUID(dom.UUID), ID: int(dom.ID)})
}

// wire is a domain as clients see it: the number tells them whether it runs.
func wire(ref manager.Ref) libvirt.Domain {
	return libvirt.Domain{Name: ref.Name, UUID: libvirt.UUID(ref.UUID), ID: int32(ref.ID)}
}

// noFlags refuses flags where a call has none.
func noFlags(flags uint32, function string) error { return onlyFlags(flags, 0, function) }

// onlyFlags refuses flags that a call does not have, in libvirt's words.
func onlyFlags(flags, known uint32, function string) error {
	if extra := flags &^ known; extra != 0 {
		return virterr.New(virterr.InvalidArg, "unsupported flags (0x%x) in function %s", extra, function)
	}
	return nil
}

// on registers a procedure of the remote program.
func on[A, R any](reg *rpc.Registry, number uint32, fn func(context.Context, *rpc.Call, *A) (*R, error)) {
	rpc.Handle(reg, rpc.ProgramRemote, number, fn)
}

// onQuick registers one that is answered from memory: see rpc.HandleQuick.
func onQuick[A, R any](reg *rpc.Registry, number uint32, fn func(context.Context, *rpc.Call, *A) (*R, error)) {
	rpc.HandleQuick(reg, rpc.ProgramRemote, number, fn)
}

// onBrief registers one that reads or writes a definition: see rpc.HandleBrief.
func onBrief[A, R any](reg *rpc.Registry, number uint32, fn func(context.Context, *rpc.Call, *A) (*R, error)) {
	rpc.HandleBrief(reg, rpc.ProgramRemote, number, fn)
}

// none is what procedures without arguments or result have.
type none = struct{}

func boolean(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// optional returns the value of optional data, or "".
func optional(o libvirt.OptString) string {
	if len(o) == 0 {
		return ""
	}
	return o[0]
}
