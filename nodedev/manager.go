package nodedev

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"virtd/virterr"
)

// Config is what a Manager looks at.
type Config struct {
	Sys      string                       // "": /sys
	Udev     string                       // udevd's database; "": none
	PCIIDs   []string                     // files with the names of PCI devices, the first that exists counts
	UUID     string                       // the host's
	Features func(ifname string) []string // an interface's offloads, by libvirt's names; nil: not told
	Listen   func() (Source, error)       // uevents; nil: look at sysfs whenever somebody asks
	Log      *slog.Logger                 // nil: slog.Default

	State string                         // folder of the definitions of mediated devices; "": none can be defined
	Proc  string                         // "": /proc
	Dev   string                         // "": /dev
	Write func(file, value string) error // writes an attribute of sysfs, nil: the file; as in HostdevsConfig
}

// Local returns the configuration for this host.
func Local() Config {
	return Config{Sys: "/sys", Udev: "/run/udev/data", PCIIDs: []string{"/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"},
		Features: Features, Listen: Listen}
}

// EventKind is what happened to a device.
type EventKind int

// The kinds of events.
const (
	Created EventKind = iota
	Deleted
	Changed
	Defined   // of a mediated device there is a definition now
	Undefined // ... not any more
)

// Event tells that a device came, went or changed.
type Event struct {
	Kind   EventKind
	Device string
}

// Manager keeps the index of the host's devices, and the definitions of those that it can make. Open makes one, Close ends
// its goroutine. Safe for concurrent use.
type Manager struct {
	host  *host
	log   *slog.Logger
	dev   string // where device nodes are
	boot  string // this boot's id
	write func(file, value string) error
	store mdevStore

	source Source        // nil: sysfs is looked at on each call
	done   chan struct{} // closed when the goroutine has ended

	// order is held from a change of the index until its events are delivered, so that events come in the order of the
	// changes. mu guards the index and the subscribers, and is never held while a subscriber runs.
	order sync.Mutex
	mu    sync.Mutex
	index map[string]Device // by path
	names map[string]string // paths by name
	subs  map[int]func(Event)
	next  int
	stale bool // the source ended; see source

	changes sync.Mutex            // held while a mediated device or a definition is changed; taken before order
	defined map[string]mdevRecord // by name; guarded by mu, as is attrs
	attrs   map[string][]MdevAttr // that this process gave to a device when it made it, by name
}

// Open looks at all devices and begins to follow what happens to them. Where uevents cannot be had, the manager looks at
// sysfs whenever it is asked.
func Open(cfg Config) (*Manager, error) {
	if cfg.Sys == "" {
		cfg.Sys = "/sys"
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Write == nil {
		cfg.Write = writeAttribute
	}
	sys, err := openSysfs(cfg.Sys, cfg.Udev)
	if err != nil {
		return nil, fmt.Errorf("look for the host's devices in %s (is it mounted?): %w", cfg.Sys, err)
	}
	m := &Manager{
		host: &host{sysfs: sys, ids: &pciIDs{files: cfg.PCIIDs}, uuid: cfg.UUID, features: cfg.Features},
		log:  cfg.Log, done: make(chan struct{}), index: map[string]Device{}, names: map[string]string{}, subs: map[int]func(Event){},
		dev: cmp.Or(cfg.Dev, "/dev"), boot: bootID(cmp.Or(cfg.Proc, "/proc")), write: cfg.Write, store: mdevStore{cfg.State},
		attrs: map[string][]MdevAttr{},
	}
	var problems []error
	m.defined, problems = m.store.load()
	for _, p := range problems {
		m.log.Error("a mediated device's definition is left alone because it cannot be understood", "error", p)
	}
	if cfg.Listen != nil {
		m.source, err = cfg.Listen()
		if err != nil { // as an ordinary user in a container
			m.log.Info("devices are looked for whenever a client asks, and have no events", "reason", err)
			m.source = nil
		}
	}
	m.resync() // after Listen, so that nothing is missed in between
	if m.source == nil {
		close(m.done)
		return m, nil
	}
	go m.follow()
	return m, nil
}

// Close stops following devices. It waits until the last event is delivered.
func (m *Manager) Close() {
	if m.source != nil {
		m.source.Close()
	}
	<-m.done
}

// Subscribe calls f for every event, one at a time and in order, until the function it returns is called. f must not block
// and must not call the manager.
func (m *Manager) Subscribe(f func(Event)) (unsubscribe func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.next
	m.next++
	m.subs[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.subs, id)
	}
}

// follow applies uevents until the source ends.
func (m *Manager) follow() {
	defer close(m.done)
	for {
		u, err := m.source.Receive()
		switch {
		case errors.Is(err, ErrMissed):
			m.resync()
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			m.log.Error("device events end; devices are looked for whenever a client asks", "error", err)
			m.mu.Lock()
			m.stale = true
			m.mu.Unlock()
			return
		case u.Action == "move": // what is below it has moved along
			m.resync()
		default:
			m.apply(u)
		}
	}
}

// apply puts one uevent into the index. sysfs says what is there now, which may be more than the event knew.
func (m *Manager) apply(u Uevent) {
	m.order.Lock()
	defer m.order.Unlock()
	if path.Base(path.Dir(u.Path)) == FCHost { // the kernel says later than with the host's own event that it is on Fibre Channel
		u = Uevent{Action: "change", Path: path.Dir(path.Dir(u.Path))}
	}
	var n *node
	ok := false
	if u.Action != "remove" {
		n, ok = m.host.identify(u.Path)
	}
	m.mu.Lock()
	var events []Event
	old, known := m.index[u.Path]
	if known && (!ok || old.Name != n.Name) {
		events = append(events, m.remove(old))
		known = false
	}
	if ok {
		kind := Created
		if known {
			kind = Changed
		}
		m.put(n.Device)
		events = append(events, Event{kind, n.Name})
	}
	m.mu.Unlock()
	m.deliver(events)
}

// resync makes the index what sysfs has.
func (m *Manager) resync() {
	m.order.Lock()
	defer m.order.Unlock()
	found := m.host.scan()
	found[""] = Device{Name: computer, Kind: System, Caps: []string{string(System)}}
	m.mu.Lock()
	var events []Event
	for _, dev := range sorted(m.index) {
		if now, ok := found[dev.Path]; !ok || now.Name != dev.Name {
			events = append(events, m.remove(dev))
		}
	}
	for _, dev := range sorted(found) {
		if _, ok := m.index[dev.Path]; !ok {
			events = append(events, Event{Created, dev.Name})
		}
		m.put(dev)
	}
	m.mu.Unlock()
	m.deliver(events)
}

func (m *Manager) put(d Device) {
	m.index[d.Path] = d
	m.names[d.Name] = d.Path
}

func (m *Manager) remove(d Device) Event {
	delete(m.index, d.Path)
	delete(m.attrs, d.Name)
	if m.names[d.Name] == d.Path { // another device may have the name by now
		delete(m.names, d.Name)
	}
	return Event{Deleted, d.Name}
}

// deliver hands events to the subscribers; order is held.
func (m *Manager) deliver(events []Event) {
	m.mu.Lock()
	subs := make([]func(Event), 0, len(m.subs))
	for _, f := range m.subs {
		subs = append(subs, f)
	}
	m.mu.Unlock()
	for _, e := range events {
		for _, f := range subs {
			f(e)
		}
	}
}

// sorted returns devices by path, so that parents come first.
func sorted(index map[string]Device) []Device {
	out := make([]Device, 0, len(index))
	for _, d := range index {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Device) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// blind reports whether no uevents keep the index right, so that sysfs must be looked at for each question.
func (m *Manager) blind() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.source == nil || m.stale
}

// List returns all devices by name.
func (m *Manager) List() []Device {
	if m.blind() {
		m.resync()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Device, 0, len(m.index)+len(m.defined))
	for _, d := range m.index {
		out = append(out, m.state(d))
	}
	for name := range m.defined {
		if _, active := m.names[name]; !active {
			d, _ := m.inactive(name)
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Lookup finds a device by its name.
func (m *Manager) Lookup(name string) (Device, error) {
	d, ok := m.indexed(name)
	if m.blind() && !(ok && m.exists(d)) { // what is still there needs no look at everything
		m.resync()
		d, ok = m.indexed(name)
	}
	if !ok {
		m.mu.Lock()
		defer m.mu.Unlock()
		if d, ok = m.inactive(name); !ok {
			return Device{}, notFound(name)
		}
	}
	return d, nil
}

// indexed returns a device that exists.
func (m *Manager) indexed(name string) (Device, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.names[name]
	return m.state(m.index[at]), ok
}

// exists asks sysfs whether a device is still there and has still its name.
func (m *Manager) exists(d Device) bool {
	if d.Kind == System {
		return true
	}
	n, ok := m.host.identify(d.Path)
	return ok && n.Name == d.Name
}

// LookupFCHost finds the SCSI host with these world wide names.
func (m *Manager) LookupFCHost(wwnn, wwpn string) (Device, error) {
	for _, d := range m.List() {
		if d.Has(FCHost) && strings.EqualFold(d.WWNN, wwn(wwnn)) && strings.EqualFold(d.WWPN, wwn(wwpn)) {
			return d, nil
		}
	}
	return Device{}, virterr.NewFrom(virterr.FromNodeDev, virterr.NoNodeDevice,
		"no node device with matching wwnn '%s' and wwpn '%s'", wwnn, wwpn)
}

// Parent is the name of the device that another one hangs on; "" for the computer.
func (m *Manager) Parent(name string) (string, error) {
	d, err := m.Lookup(name)
	if err != nil || d.Kind == System {
		return "", err
	}
	if !d.Active {
		r, _ := m.definition(name)
		return m.parentOf(r), nil
	}
	return m.host.parent(d.Path), nil
}

// XML describes a device as it is now, or as it is defined where it does not exist.
func (m *Manager) XML(name string) (string, error) {
	d, err := m.Lookup(name)
	if err != nil {
		return "", err
	}
	if !d.Active {
		return m.DefinedXML(name)
	}
	n := &node{Device: d}
	if d.Kind != System {
		now, ok := m.host.identify(d.Path)
		if !ok || now.Name != name {
			return "", notFound(name) // its uevent is on the way
		}
		n = now
		n.attrs = m.attrsOf(name)
	}
	doc, err := m.host.describe(n)
	if err != nil {
		return "", virterr.NewFrom(virterr.FromNodeDev, virterr.InternalError, "%w", err)
	}
	return doc.String(), nil
}

func notFound(name string) error {
	return virterr.NewFrom(virterr.FromNodeDev, virterr.NoNodeDevice, "no node device with matching name '%s'", name)
}
