package balloon

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// Feature bits (virtio 1.2, 5.5.3).
const (
	FeatureMustTellHost uint64 = 1 << 0 // VIRTIO_BALLOON_F_MUST_TELL_HOST
	FeatureStats        uint64 = 1 << 1 // VIRTIO_BALLOON_F_STATS_VQ
	FeatureDeflateOnOOM uint64 = 1 << 2 // VIRTIO_BALLOON_F_DEFLATE_ON_OOM
	FeaturePagePoison   uint64 = 1 << 4 // VIRTIO_BALLOON_F_PAGE_POISON
	FeatureReporting    uint64 = 1 << 5 // VIRTIO_BALLOON_F_PAGE_REPORTING
)

// pageSize is the unit of the balloon, whatever the guest's page size (5.5.6).
const pageSize = 4096

// Layout of struct virtio_balloon_config (5.5.4).
const (
	cfgNumPages = 0  // le32, what the host wants
	cfgActual   = 4  // le32, what the guest gave
	cfgPoison   = 12 // le32, after the free page hint command
	cfgSize     = 16
)

const (
	queueSize     = 128
	statsQueue    = 2
	reportingSlot = 4 // where the specification has reporting_vq (5.5.2)
)

// Config describes a balloon.
type Config struct {
	Name   string // alias, for messages
	Memory *memory.Memory
	Target uint64 // bytes that the guest should keep; 0 and what exceeds RAM is all
	// StatsPeriod makes the guest tell its statistics that often; 0 is on demand only.
	StatsPeriod   time.Duration
	DeflateOnOOM  bool
	FreeReporting bool
	// HostPage is the size in bytes of the pages that back RAM; 0 is 4096. Larger ones are given back when the whole
	// page is in the balloon.
	HostPage uint64
	// OnActual is called from a vCPU thread when the size of the balloon changed, with the bytes the guest keeps.
	OnActual func(bytes uint64)
	// Logf reports that memory cannot be given back, once. nil reports nothing.
	Logf func(format string, args ...any)
}

// Device is a balloon. SetTarget, Actual, Target, Stats, SetStatsPeriod and Inhibit may be called by any goroutine; the
// rest is the transport's.
type Device struct {
	cfg       Config
	pages     uint32 // of RAM
	numPages  atomic.Uint32
	actual    atomic.Uint32
	poison    atomic.Uint32
	inhibited atomic.Bool
	warned    atomic.Bool
	env       atomic.Pointer[virtio.Env]

	inflate, deflate, report worker
	services                 []*virtio.Service
	statsq                   *virtio.Queue // while it is served
	held                     pagesHeld
	stats                    stats
}

var _ virtio.Device = (*Device)(nil)

// New makes a balloon.
func New(cfg Config) (*Device, error) {
	pages := cfg.Memory.Size() / pageSize
	if pages > 1<<32-1 {
		return nil, fmt.Errorf("balloon %s: %d bytes of RAM are more than a balloon can count", cfg.Name, cfg.Memory.Size())
	}
	if cfg.HostPage == 0 {
		cfg.HostPage = pageSize
	}
	if cfg.HostPage < pageSize || cfg.HostPage&(cfg.HostPage-1) != 0 {
		return nil, fmt.Errorf("balloon %s: %d bytes is not the size of a page", cfg.Name, cfg.HostPage)
	}
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	d := &Device{cfg: cfg, pages: uint32(pages)}
	d.held = newPagesHeld(cfg.HostPage)
	d.stats.init(cfg.StatsPeriod)
	d.setTarget(cfg.Target)
	return d, nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDBalloon }

// Features implements virtio.Device. MUST_TELL_HOST is not offered: a page that the guest takes back without telling is
// zero, which is what the balloon promises.
func (d *Device) Features() uint64 {
	f := virtio.FeatureIndirectDesc | virtio.FeatureEventIdx | FeatureStats
	if d.cfg.DeflateOnOOM {
		f |= FeatureDeflateOnOOM
	}
	if d.cfg.FreeReporting {
		f |= FeatureReporting | FeaturePagePoison
	}
	return f
}

// QueueSizes implements virtio.Device. The specification numbers reporting_vq 4, drivers number the queues of accepted
// features without gaps; with five queues both find one.
func (d *Device) QueueSizes() []uint16 {
	n := statsQueue + 1
	if d.cfg.FreeReporting {
		n = reportingSlot + 1
	}
	s := make([]uint16, n)
	for i := range s {
		s[i] = queueSize
	}
	return s
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(offset int, p []byte) {
	var b [cfgSize]byte
	binary.LittleEndian.PutUint32(b[cfgNumPages:], d.numPages.Load())
	binary.LittleEndian.PutUint32(b[cfgActual:], d.actual.Load())
	binary.LittleEndian.PutUint32(b[cfgPoison:], d.poison.Load())
	clear(p)
	if offset < len(b) {
		copy(p, b[offset:])
	}
}

// WriteConfig implements virtio.Device: the driver writes actual and poison_val. What exceeds RAM counts as all of it.
func (d *Device) WriteConfig(offset int, p []byte) {
	if len(p) != 4 {
		return
	}
	switch v := binary.LittleEndian.Uint32(p); offset {
	case cfgActual:
		v = min(v, d.pages)
		if d.actual.Swap(v) != v && d.cfg.OnActual != nil {
			d.cfg.OnActual(d.Actual())
		}
	case cfgPoison:
		d.poison.Store(v)
	}
}

func (d *Device) setTarget(bytes uint64) {
	keep := min(bytes/pageSize, uint64(d.pages))
	if bytes == 0 {
		keep = uint64(d.pages)
	}
	d.numPages.Store(d.pages - uint32(keep))
}

// SetTarget asks the guest to keep bytes of RAM. What it does about it shows in Actual. Zero, and more than there is, is
// all of it.
func (d *Device) SetTarget(bytes uint64) {
	d.setTarget(bytes)
	if env := d.env.Load(); env != nil {
		env.ConfigChanged()
	}
}

// Target returns the bytes of RAM that the guest should keep.
func (d *Device) Target() uint64 { return uint64(d.pages-d.numPages.Load()) * pageSize }

// Actual returns the bytes of RAM that the guest keeps: all without a driver.
func (d *Device) Actual() uint64 { return uint64(d.pages-d.actual.Load()) * pageSize }

// Active reports whether a driver uses the balloon.
func (d *Device) Active() bool { return d.env.Load() != nil }

// Inhibit stops giving memory back, for as long as a device of the host has guest memory pinned (VFIO). The guest's view
// does not change.
func (d *Device) Inhibit(yes bool) { d.inhibited.Store(yes) }

// Activate implements virtio.Device.
func (d *Device) Activate(env *virtio.Env) error {
	if err := d.start(env); err != nil {
		d.stop()
		return err
	}
	d.env.Store(env)
	return nil
}

func (d *Device) start(env *virtio.Env) error {
	serve := func(i int, turn func(*virtio.Service, *virtio.Queue) (virtio.Turn, error)) error {
		if i >= len(env.Queues) || env.Queues[i] == nil {
			return nil
		}
		s, err := virtio.Serve(env, env.Queues[i], turn)
		if err == nil {
			d.services = append(d.services, s)
			if i == statsQueue && env.Features&FeatureStats != 0 {
				d.statsq = env.Queues[i]
				d.stats.setService(s)
			}
		}
		return err
	}
	if err := serve(0, d.inflateTurn); err != nil {
		return err
	}
	if err := serve(1, d.deflateTurn); err != nil {
		return err
	}
	next := 2
	if env.Features&FeatureStats != 0 {
		if err := serve(next, d.stats.turn); err != nil {
			return err
		}
		next++
	}
	if env.Features&FeatureReporting != 0 {
		if next < len(env.Queues) && env.Queues[next] == nil {
			next = reportingSlot
		}
		return serve(next, d.reportTurn)
	}
	return nil
}

func (d *Device) stop() {
	d.stats.setService(nil)
	for _, s := range d.services {
		s.Stop()
	}
	d.services = nil
	d.stats.release(d.statsq)
	d.statsq = nil
}

// Reset implements virtio.Device. A driver that comes next starts with an empty balloon.
func (d *Device) Reset() {
	d.env.Store(nil)
	d.stop()
	d.stats.forget()
	d.held.clear()
	d.poison.Store(0)
	d.actual.Store(0)
}

// Quiesce implements virtio.Device.
func (d *Device) Quiesce() { d.stop() }

// Resume implements virtio.Device.
func (d *Device) Resume() {
	env := d.env.Load()
	if err := d.start(env); err != nil {
		env.Fail(err)
	}
}

type state struct {
	Version  int    `json:"version"`
	Pages    uint32 `json:"pages"` // of RAM
	NumPages uint32 `json:"numPages"`
	Actual   uint32 `json:"actual"`
	Poison   uint32 `json:"poison"`
	// Held has, for backings with large pages, what of each page is in the balloon.
	Held map[uint64][]uint64 `json:"held,omitempty"`
}

// Save implements virtio.Device.
func (d *Device) Save() ([]byte, error) {
	return json.Marshal(state{1, d.pages, d.numPages.Load(), d.actual.Load(), d.poison.Load(), d.held.save()})
}

// Restore implements virtio.Device.
func (d *Device) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("balloon %s: %w", d.cfg.Name, err)
	}
	if s.Version != 1 || s.Pages != d.pages || s.NumPages > d.pages || s.Actual > d.pages {
		return fmt.Errorf("balloon %s: the state is not of this balloon (version %d, %d pages of RAM; expected 1, %d)", d.cfg.Name, s.Version, s.Pages, d.pages)
	}
	if err := d.held.restore(s.Held); err != nil {
		return fmt.Errorf("balloon %s: %w", d.cfg.Name, err)
	}
	d.numPages.Store(s.NumPages)
	d.actual.Store(s.Actual)
	d.poison.Store(s.Poison)
	return nil
}

// worker is the scratch space of one queue's service.
type worker struct {
	chain virtio.Chain
	raw   [4 * batch]byte
	pfns  [batch]uint32
}

// lock guards what inflate and deflate share.
type lock = sync.Mutex
