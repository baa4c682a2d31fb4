package hostnet

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/durable"
	"virtd/network/bridge"
	"virtd/virterr"
)

// Config is what a Changer works with.
type Config struct {
	Links *bridge.Host
	Run   string // records of changes that are not confirmed yet; does not survive a boot
	// Owner says who has a bridge, "" for nobody: it is then not to be deleted here.
	Owner func(bridge string) string
	Log   *slog.Logger
}

// Changer changes the host's bridges. Its methods are safe for concurrent use; errors that a user can cause are *virterr.Error.
type Changer struct {
	cfg Config

	mu      sync.Mutex // held while the host is changed
	waiting map[string]*time.Timer
	changes map[string]*change
	wg      sync.WaitGroup
}

// Open takes back the changes that an earlier virtd did not live to see confirmed.
func Open(cfg Config) (*Changer, error) {
	if err := os.MkdirAll(cfg.Run, 0o700); err != nil {
		return nil, virterr.New(virterr.SystemError, "cannot make directory '%s': %w", cfg.Run, err)
	}
	s := &Changer{cfg: cfg, waiting: map[string]*time.Timer{}, changes: map[string]*change{}}
	paths, err := filepath.Glob(filepath.Join(cfg.Run, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		c := &change{}
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, c)
		}
		if err == nil {
			err = c.undo(s)
		}
		if err != nil {
			cfg.Log.Error("a change of a bridge that nobody confirmed cannot be taken back", "record", path, "error", err)
		} else {
			cfg.Log.Warn("a change of a bridge that nobody confirmed was taken back", "bridge", c.Bridge, "port", c.Port)
		}
		if err := os.Remove(path); err != nil {
			cfg.Log.Error("a record of a bridge's change stays", "record", path, "error", err)
		}
	}
	return s, nil
}

// Close takes back what is not confirmed.
func (s *Changer) Close() {
	s.mu.Lock()
	var ports []string
	for port := range s.changes {
		ports = append(ports, port)
	}
	s.mu.Unlock()
	for _, port := range ports {
		s.expire(port)
	}
	s.wg.Wait()
}

// Bridge is a bridge of the host.
type Bridge struct {
	Name      string
	MAC       string
	MTU       int
	Up        bool
	STP       bool
	VLANs     bool // it filters VLANs
	Addresses []string
	Ports     []string
	Owner     string // "" or the virtual network that has it
}

// Bridges lists all bridges by name.
func (s *Changer) Bridges() ([]Bridge, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, failed(err, "list the host's interfaces")
	}
	var out []Bridge
	for _, l := range links {
		br, ok := l.(*netlink.Bridge)
		if !ok {
			continue
		}
		a := l.Attrs()
		b := Bridge{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.RawFlags&unix.IFF_UP != 0, Owner: s.cfg.Owner(a.Name),
			VLANs: br.VlanFiltering != nil && *br.VlanFiltering, STP: bridge.STP(a.Name)}
		for _, p := range links {
			if p.Attrs().MasterIndex == a.Index {
				b.Ports = append(b.Ports, p.Attrs().Name)
			}
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, failed(err, "list the addresses of '%s'", a.Name)
		}
		for _, ad := range addrs {
			b.Addresses = append(b.Addresses, ad.IPNet.String())
		}
		slices.Sort(b.Ports)
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b Bridge) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Create makes a bridge.
func (s *Changer) Create(c bridge.BridgeConfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Links.AddBridge(c)
}

// Delete removes a bridge that has no ports, no addresses and no owner: the host may be reached by what it has.
func (s *Changer) Delete(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.find(name)
	if err != nil {
		return err
	}
	global := slices.DeleteFunc(slices.Clone(b.Addresses), func(a string) bool { return strings.HasPrefix(a, "fe80:") })
	switch {
	case b.Owner != "":
		return virterr.New(virterr.OperationInvalid, "bridge '%s' belongs to network '%s'; stop that: vctl net destroy %s", name, b.Owner, b.Owner)
	case len(b.Ports) > 0:
		return virterr.New(virterr.OperationInvalid, "bridge '%s' has ports: %s; remove them first", name, strings.Join(b.Ports, ", "))
	case len(global) > 0:
		return virterr.New(virterr.OperationInvalid, "bridge '%s' has addresses of the host: %s; remove them first", name, strings.Join(global, ", "))
	}
	return s.cfg.Links.Delete(name)
}

func (s *Changer) find(name string) (Bridge, error) {
	all, err := s.Bridges()
	if err != nil {
		return Bridge{}, err
	}
	for _, b := range all {
		if b.Name == name {
			return b, nil
		}
	}
	return Bridge{}, virterr.NewFrom(virterr.FromInterface, virterr.NoInterface, "no bridge with the name '%s'", name)
}

// Limits of how long a change waits for its confirmation.
const (
	MinWait = time.Second
	MaxWait = 10 * time.Minute
)

// AddPort makes a link of the host a port of a bridge. Its addresses and routes move to the bridge. Where there are some the
// change is taken back after wait, unless Confirm comes first; pending says so. It is taken back at once when a gateway that
// answered before does not any more.
func (s *Changer) AddPort(name, port string, wait time.Duration) (pending bool, err error) {
	return s.change(&change{Bridge: name, Port: port, Attach: true}, wait)
}

// RemovePort is the way back: the addresses of a bridge go to the last of the host's links that leaves it.
func (s *Changer) RemovePort(name, port string, wait time.Duration) (pending bool, err error) {
	return s.change(&change{Bridge: name, Port: port}, wait)
}

func (s *Changer) change(c *change, wait time.Duration) (bool, error) {
	if wait < MinWait || wait > MaxWait {
		return false, virterr.New(virterr.InvalidArg, "a change waits from %s to %s for its confirmation, not %s", MinWait, MaxWait, wait)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.find(c.Bridge)
	if err != nil {
		return false, err
	}
	port, err := s.cfg.Links.Link(c.Port)
	if err != nil {
		return false, err
	}
	if err := s.admit(c, b, port); err != nil {
		return false, err
	}
	if c.Attach || s.lastUplink(b, c.Port) {
		if err := c.look(); err != nil {
			return false, err
		}
	}
	if !c.moves() {
		return false, c.do(s)
	}
	answered := c.gateways(c.from(), beforeTime)
	if err := s.record(c); err != nil {
		return false, err
	}
	err = c.do(s)
	if err == nil {
		err = c.stillAnswer(answered)
	}
	if err != nil {
		return false, errors.Join(err, s.takeBack(c))
	}
	s.wait(c, wait)
	return true, nil
}

// admit refuses a change that makes no sense.
func (s *Changer) admit(c *change, b Bridge, port bridge.Link) error {
	switch {
	case s.changes[c.Port] != nil:
		return virterr.New(virterr.OperationInvalid, "an earlier change of '%s' is not confirmed yet", c.Port)
	case !c.Attach && port.Bridge != c.Bridge:
		return virterr.New(virterr.OperationInvalid, "'%s' is no port of bridge '%s'", c.Port, c.Bridge)
	case !c.Attach:
		return nil
	case port.Bridge == c.Bridge:
		return virterr.New(virterr.OperationInvalid, "'%s' is a port of bridge '%s' already", c.Port, c.Bridge)
	case port.Bridge != "":
		return virterr.New(virterr.OperationInvalid, "'%s' is a port of '%s'; remove it there first", c.Port, port.Bridge)
	case port.Kind == "bridge", port.Name == "lo":
		return virterr.New(virterr.InvalidArg, "'%s' cannot be a port of a bridge", c.Port)
	case b.Owner != "":
		return virterr.New(virterr.OperationInvalid, "bridge '%s' belongs to network '%s', whose rules keep its guests from other links", c.Bridge, b.Owner)
	}
	return nil
}

// lastUplink reports whether no other port of a bridge but a guest's would be left to carry the host's addresses.
func (s *Changer) lastUplink(b Bridge, port string) bool {
	for _, p := range b.Ports {
		if l, err := s.cfg.Links.Link(p); err == nil && p != port && l.Kind != "tuntap" {
			return false
		}
	}
	return true
}

func (s *Changer) path(port string) string { return filepath.Join(s.cfg.Run, port+".json") }

// record puts a change on disk before it is made.
func (s *Changer) record(c *change) error {
	text, err := c.encode()
	if err == nil {
		err = durable.Write(s.path(c.Port), text)
	}
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot note the change of '%s', so it is not made: %w", c.Port, err)
	}
	return nil
}

func (s *Changer) takeBack(c *change) error {
	err := c.undo(s)
	if err != nil {
		s.cfg.Log.Error("a change of a bridge could not be taken back as a whole", "bridge", c.Bridge, "port", c.Port, "error", err)
	}
	return errors.Join(err, os.Remove(s.path(c.Port)))
}

// wait takes the change back later.
func (s *Changer) wait(c *change, d time.Duration) {
	s.changes[c.Port] = c
	s.wg.Add(1)
	s.waiting[c.Port] = time.AfterFunc(d, func() { defer s.wg.Done(); s.expire(c.Port) })
}

// expire takes back a change that nobody confirmed.
func (s *Changer) expire(port string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.settle(port)
	if c == nil {
		return
	}
	s.cfg.Log.Warn("a change of a bridge is taken back because nobody confirmed it", "bridge", c.Bridge, "port", c.Port)
	if err := s.takeBack(c); err != nil {
		s.cfg.Log.Error("the record of a bridge's change stays", "port", port, "error", err)
	}
}

// settle ends the wait for a change, which it returns.
func (s *Changer) settle(port string) *change {
	c := s.changes[port]
	if c != nil {
		if s.waiting[port].Stop() {
			s.wg.Done()
		}
		delete(s.changes, port)
		delete(s.waiting, port)
	}
	return c
}

// Confirm says that the host can still be reached after a change of a port.
func (s *Changer) Confirm(port string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settle(port) == nil {
		return virterr.New(virterr.OperationInvalid, "no change of '%s' waits to be confirmed: it was taken back, or confirmed before", port)
	}
	return failed(os.Remove(s.path(port)), "remove the record of '%s'", port)
}
