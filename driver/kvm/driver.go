package kvm

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/driver/kvm/supervise"
	"virtd/hypervisor"
	"virtd/network/bridge"
	"virtd/network/firewall"
	"virtd/network/portconf"
	"virtd/virterr"
)

// Links is what the driver needs of the host's network links; bridge.Host has it.
type Links interface {
	OpenTap(c bridge.TapConfig) (*bridge.Tap, error)
	OpenMacvtap(c bridge.MacvtapConfig) (*bridge.Tap, error)
	DeleteMacvtap(name string, index int, mac []byte) error
	ApplyRxFilter(name string, f bridge.RxFilter) error
	OpenVhostNet(path string, n int) ([]*os.File, error)
	Attach(bridge, port string) error
	Isolate(port string, on bool) error
	SetVLAN(bridge, port string, v portconf.VLAN) error
	SetBandwidth(name string, b portconf.Bandwidth) error
	SetCoalesce(name string, frames uint32) error
	GuestStats(name string) (bridge.Stats, error)
	Link(name string) (bridge.Link, error)
}

// Filters is what the driver needs of the packet filter for guests; firewall.Guests has it.
type Filters interface {
	Set(tap string, f *firewall.Filter) error
	Remove(tap string) error
	Keep(tap string, f *firewall.Filter)
	Restore() error
}

// Config is what a Driver works with.
type Config struct {
	Engine string // path of virtd-vmm
	RunDir string // for sockets and exit records of running domains; must not survive a boot
	LogDir string // for the engines' own logs, NAME.log
	Links  Links
	// Filters enforces <filterref>; nil refuses interfaces that have one.
	Filters Filters
	// UserNets starts the processes behind interfaces of type user; nil refuses them.
	UserNets UserNets
	// Hostdevs takes PCI functions from the host; nil refuses domains with such devices.
	Hostdevs Hostdevs
	// HostCPU answers for host-model; nil refuses it.
	HostCPU domain.HostCPU
	Log     *slog.Logger // nil is the default one

	// UIDBase and UIDCount are the uids (and gids) given to engines, one to each. They count only when virtd is root.
	UIDBase, UIDCount int
	// CgroupParent is the cgroup under which each engine gets one, relative to the hierarchy's root. It belongs to this
	// driver alone; "" is virtd-engines with a mark of RunDir.
	CgroupParent string
	// ConsoleLogMax is the size in bytes at which a console log turns to its second file; 0 is unlimited.
	ConsoleLogMax int64
	// Confine says how far engines lock themselves in.
	Confine hypervisor.Confine
}

// Driver starts and adopts engines. It implements driver.Driver.
type Driver struct {
	cfg      Config
	log      *slog.Logger
	cgroups  *supervise.Cgroups // nil without a hierarchy
	warnings []string           // what this host lacks, for every engine

	mu     sync.Mutex
	uids   map[int]bool       // given out
	images map[inode][]string // names of domains that use an image

	instances map[string]*instance // that run, by their directories
}

// inode identifies an image.
type inode struct{ Dev, Ino uint64 }

// New makes a driver and the directories it needs.
func New(cfg Config) (*Driver, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.UIDCount == 0 {
		cfg.UIDBase, cfg.UIDCount = 2_000_000, 60_000
	}
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = cgroupParent(cfg.RunDir)
	}
	d := &Driver{cfg: cfg, log: cfg.Log, uids: map[int]bool{}, images: map[inode][]string{}, instances: map[string]*instance{}}
	for _, dir := range []string{cfg.RunDir, cfg.LogDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, virterr.New(virterr.SystemError, "cannot make directory '%s' for engines: %w", dir, err)
		}
	}
	if len(filepath.Join(cfg.RunDir, uuidLength, monitorSocket)) > maxSocketPath {
		return nil, virterr.New(virterr.SystemError, "directory '%s' has too long a path for unix sockets: use one of at most %d bytes",
			cfg.RunDir, maxSocketPath-len(uuidLength)-len(monitorSocket)-2)
	}
	if cfg.UserNets != nil {
		cfg.UserNets.OnLost(d.userNetLost)
	}
	d.openCgroups()
	if os.Geteuid() != 0 {
		d.warnings = append(d.warnings, "virtd is not root: engines run under its own uid and see the host's network")
	}
	return d, nil
}

// cgroupParent keeps several virtds on a host, which have run directories of their own, out of each other's cgroups.
func cgroupParent(runDir string) string {
	if abs, err := filepath.Abs(runDir); err == nil {
		runDir = abs
	}
	return fmt.Sprintf("virtd-engines-%08x", crc32.ChecksumIEEE([]byte(runDir)))
}

const (
	uuidLength    = "01234567-0123-0123-0123-0123456789ab"
	monitorSocket = "monitor.sock"
	exitFile      = "exit.json"
	maxSocketPath = 107 // sockaddr_un.sun_path with its terminating zero
)

func (d *Driver) openCgroups() {
	c, err := supervise.OpenCgroups(d.cfg.CgroupParent)
	if err != nil {
		d.warnings = append(d.warnings, "engines run without a cgroup of their own: "+err.Error())
		return
	}
	d.cgroups = c
	if missing := c.Missing(); len(missing) > 0 {
		text := "engines' cgroups lack controllers:"
		for _, m := range missing {
			text += " " + m
		}
		d.warnings = append(d.warnings, text)
	}
}

// HostModel implements domain.HostCPU.
func (d *Driver) HostModel() (domain.CPUModel, error) {
	if d.cfg.HostCPU == nil {
		return domain.CPUModel{}, virterr.New(virterr.ConfigUnsupported, "this host's CPU has no model name; use <cpu mode='host-passthrough'/>")
	}
	return d.cfg.HostCPU.HostModel()
}

// facts are what Plan takes into account now.
func (d *Driver) facts() HostFacts {
	vhost := false
	if fd, err := unix.Open("/dev/vhost-net", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		vhost = unix.Close(fd) == nil
	}
	return HostFacts{VhostNet: vhost, Now: time.Now(), Local: time.Local, ConsoleLogMax: d.cfg.ConsoleLogMax, Confine: d.cfg.Confine}
}

// takeUID reserves a uid for an engine; -1 keeps virtd's own, where virtd is not root.
func (d *Driver) takeUID() (int, error) {
	if os.Geteuid() != 0 {
		return -1, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for uid := d.cfg.UIDBase; uid < d.cfg.UIDBase+d.cfg.UIDCount; uid++ {
		if !d.uids[uid] {
			d.uids[uid] = true
			return uid, nil
		}
	}
	return -1, virterr.New(virterr.OperationFailed, "all %d uids for engines, from %d, are in use", d.cfg.UIDCount, d.cfg.UIDBase)
}

func (d *Driver) dropUID(uid int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.uids, uid)
}

// Tidy implements driver.Driver. Engines whose start was cut short leave by themselves: they find no configuration.
func (d *Driver) Tidy(running []uuid.UUID) error {
	keep := map[string]bool{}
	for _, id := range running {
		keep[id.String()] = true
	}
	var errs []error
	entries, err := os.ReadDir(d.cfg.RunDir)
	errs = append(errs, err)
	for _, e := range entries {
		if _, err := uuid.Parse(e.Name()); err == nil && !keep[e.Name()] {
			errs = append(errs, d.clean(&record{Dir: filepath.Join(d.cfg.RunDir, e.Name())}))
		}
	}
	if d.cfg.Filters != nil {
		errs = append(errs, d.cfg.Filters.Restore())
	}
	if d.cfg.Hostdevs != nil {
		ctx, cancel := context.WithTimeout(context.Background(), hostdevTimeout)
		defer cancel()
		errs = append(errs, d.cfg.Hostdevs.Tidy(ctx, func(id string) bool { return keep[id] }))
	}
	if d.cgroups == nil {
		return errors.Join(errs...)
	}
	groups, err := d.cgroups.List()
	errs = append(errs, err)
	for _, g := range groups {
		if !keep[filepath.Base(g)] {
			errs = append(errs, supervise.RemoveCgroup(g))
		}
	}
	return errors.Join(errs...)
}

// register notes what a running engine uses; forget takes it back.
func (d *Driver) register(name string, r *record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.UID >= 0 {
		d.uids[r.UID] = true
	}
	d.addImages(name, r.Images)
}

// useImages notes that a running domain uses more images; freeImages takes it back.
func (d *Driver) useImages(name string, images []imageRecord) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addImages(name, images)
}

func (d *Driver) freeImages(name string, images []imageRecord) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropImages(name, images)
}

// addImages is useImages for callers that hold mu, dropImages is freeImages.
func (d *Driver) addImages(name string, images []imageRecord) {
	for _, i := range images {
		d.images[i.inode] = append(d.images[i.inode], name)
	}
}

func (d *Driver) forget(name string, r *record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.uids, r.UID)
	d.dropImages(name, r.Images)
}

func (d *Driver) dropImages(name string, images []imageRecord) {
	for _, i := range images {
		users := d.images[i.inode]
		for n, u := range users {
			if u == name {
				users = append(users[:n:n], users[n+1:]...)
				break
			}
		}
		if d.images[i.inode] = users; len(users) == 0 {
			delete(d.images, i.inode)
		}
	}
}

// users returns the domains that use an image.
func (d *Driver) users(i inode) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.images[i]...)
}

// ignoreMissing drops the error of removing what is gone.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
