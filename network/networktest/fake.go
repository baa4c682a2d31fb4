package networktest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"virtd/network"
	"virtd/network/bridge"
	"virtd/network/dhcp"
	"virtd/network/portconf"
)

// Fake keeps what networks do to a host in memory. The zero value is a host with nothing on it. Safe for concurrent use.
type Fake struct {
	mu     sync.Mutex
	links  map[string]bool
	routes []network.HostRoute
	up     map[string]network.Spec // by bridge
	served map[uuid.UUID]network.Spec
	filter []string
	opened []string
	plugs  []string
	shapes map[string]string // by bridge
	leases map[uuid.UUID][]dhcp.Lease
	cards  map[string][]portconf.Function // by their interfaces
	busy   map[portconf.Function]error

	// Fail, when set, is asked before each call with the method's and the network's name; an error is returned as is.
	Fail func(method, name string) error
}

var _ network.Host = (*Fake)(nil)

// AddLink gives the host a link, and AddRoute a subnet that it reaches.
func (f *Fake) AddLink(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addLink(name)
}

func (f *Fake) addLink(name string) {
	if f.links == nil {
		f.links = map[string]bool{}
	}
	f.links[name] = true
}

// AddRoute gives the host a subnet that it reaches.
func (f *Fake) AddRoute(r network.HostRoute) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes = append(f.routes, r)
}

// SetLeases says what guests of a network have.
func (f *Fake) SetLeases(id uuid.UUID, leases []dhcp.Lease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leases == nil {
		f.leases = map[uuid.UUID][]dhcp.Lease{}
	}
	f.leases[id] = leases
}

// State tells what is on the host, one thing a line: bridges, served networks, names of filtered ones, plugged taps.
func (f *Fake) State() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, s := range f.up {
		out = append(out, fmt.Sprintf("bridge %s %v", s.Bridge, s.Addresses))
	}
	for _, s := range f.served {
		out = append(out, "serves "+s.Name)
	}
	for _, name := range f.filter {
		out = append(out, "filters "+name)
	}
	for bridge, shape := range f.shapes {
		out = append(out, "shapes "+bridge+" "+shape)
	}
	out = append(out, f.plugs...)
	slices.Sort(out)
	return out
}

// Served returns the spec by which a network is served.
func (f *Fake) Served(id uuid.UUID) (network.Spec, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.served[id]
	return s, ok
}

// Lose ends the services of a network. It is for Fail, which is called with the lock held.
func (f *Fake) Lose(id uuid.UUID) { delete(f.served, id) }

// HostLinkUp implements network.Host.
func (f *Fake) HostLinkUp(s network.Spec) error {
	err := f.enter("HostLinkUp", s.Name)
	defer f.mu.Unlock()
	if err == nil {
		f.addLink(network.HostLinkName(s.UUID))
		f.plugs = append(f.plugs, fmt.Sprintf("host %s on %s for %v", s.HostLink, s.Device, s.HostLinkFor))
	}
	return err
}

// HostLinkDown implements network.Host.
func (f *Fake) HostLinkDown(s network.Spec) error {
	err := f.enter("HostLinkDown", s.Name)
	defer f.mu.Unlock()
	if err == nil {
		delete(f.links, network.HostLinkName(s.UUID))
		f.plugs = slices.DeleteFunc(f.plugs, func(p string) bool {
			return p == fmt.Sprintf("host %s on %s for %v", s.HostLink, s.Device, s.HostLinkFor)
		})
	}
	return err
}

// SetFunctions says which virtual functions a card with that interface has.
func (f *Fake) SetFunctions(pf string, list ...portconf.Function) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cards == nil {
		f.cards = map[string][]portconf.Function{}
	}
	f.cards[pf] = list
}

// SetFunctionBusy says why the host cannot spare a virtual function, nil that it can.
func (f *Fake) SetFunctionBusy(a portconf.Function, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy == nil {
		f.busy = map[portconf.Function]error{}
	}
	f.busy[a] = why
}

// Functions implements network.Host.
func (f *Fake) Functions(pf string) ([]portconf.Function, error) {
	err := f.enter("Functions", pf)
	defer f.mu.Unlock()
	list, ok := f.cards[pf]
	if err == nil && !ok {
		err = fmt.Errorf("the host has no PCI card with the interface '%s'", pf)
	}
	return slices.Clone(list), err
}

// FunctionFree implements network.Host.
func (f *Fake) FunctionFree(a portconf.Function, _ bool) error {
	err := f.enter("FunctionFree", a.String())
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.busy[a]
}

func (f *Fake) enter(method, name string) error {
	f.mu.Lock()
	if f.Fail != nil {
		return f.Fail(method, name)
	}
	return nil
}

// LinkExists implements network.Host.
func (f *Fake) LinkExists(name string) (bool, error) {
	err := f.enter("LinkExists", name)
	defer f.mu.Unlock()
	return f.links[name], err
}

// Routes implements network.Host.
func (f *Fake) Routes() ([]network.HostRoute, error) {
	err := f.enter("Routes", "")
	defer f.mu.Unlock()
	out := slices.Clone(f.routes)
	for _, bridge := range slices.Sorted(maps.Keys(f.up)) {
		for _, a := range f.up[bridge].Addresses {
			out = append(out, network.HostRoute{Prefix: a.Masked(), Link: bridge})
		}
	}
	return out, err
}

// Up implements network.Host.
func (f *Fake) Up(s network.Spec) error {
	err := f.enter("Up", s.Name)
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	if f.up == nil {
		f.up = map[string]network.Spec{}
	}
	f.up[s.Bridge] = s
	f.addLink(s.Bridge)
	return nil
}

// Shape implements network.Host.
func (f *Fake) Shape(s network.Spec, floors []bridge.Floor) error {
	err := f.enter("Shape", s.Name)
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	if f.shapes == nil {
		f.shapes = map[string]string{}
	}
	f.shapes[s.Bridge] = fmt.Sprintf("in %d out %d", s.Limits.In.Average, s.Limits.Out.Average)
	for _, l := range floors {
		f.shapes[s.Bridge] += fmt.Sprintf(" %d:%s=%d", l.Class, l.MAC, l.Rate)
	}
	return nil
}

// Down implements network.Host.
func (f *Fake) Down(s network.Spec) error {
	err := f.enter("Down", s.Name)
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	delete(f.up, s.Bridge)
	delete(f.links, s.Bridge)
	delete(f.shapes, s.Bridge)
	f.plugs = slices.DeleteFunc(f.plugs, func(p string) bool { return p[:len(s.Bridge)] == s.Bridge })
	return nil
}

// Filter implements network.Host.
func (f *Fake) Filter(list []network.Spec) error {
	err := f.enter("Filter", "")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	f.filter = nil
	for _, s := range list {
		f.filter = append(f.filter, s.Name)
	}
	return nil
}

// OpenOthers implements network.Host.
func (f *Fake) OpenOthers(list []network.Spec) error {
	err := f.enter("OpenOthers", "")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	f.opened = nil
	for _, s := range list {
		f.opened = append(f.opened, s.Name)
	}
	return nil
}

// Opened returns the names of the networks that the packet filters of others let through.
func (f *Fake) Opened() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(slices.Values(f.opened))
}

// Filtered implements network.Host.
func (f *Fake) Filtered(list []network.Spec) (bool, error) {
	err := f.enter("Filtered", "")
	defer f.mu.Unlock()
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return slices.Equal(slices.Sorted(slices.Values(f.filter)), names), err
}

// LoseFilter takes the rules of all networks away, as somebody does who flushes the host's packet filter.
func (f *Fake) LoseFilter() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter = nil
}

// LoseLink takes a link away.
func (f *Fake) LoseLink(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.links, name)
	delete(f.up, name)
	delete(f.shapes, name)
	f.plugs = slices.DeleteFunc(f.plugs, func(p string) bool { return strings.HasPrefix(p, name+" has ") })
}

// Serve implements network.Host.
func (f *Fake) Serve(s network.Spec) error {
	err := f.enter("Serve", s.Name)
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	if f.served == nil {
		f.served = map[uuid.UUID]network.Spec{}
	}
	f.served[s.UUID] = s
	return nil
}

// StopServing implements network.Host.
func (f *Fake) StopServing(id uuid.UUID) error {
	err := f.enter("StopServing", "")
	defer f.mu.Unlock()
	delete(f.served, id)
	return err
}

// Plug implements network.Host.
func (f *Fake) Plug(bridge, tap string, isolated bool) error {
	err := f.enter("Plug", tap)
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	line := bridge + " has " + tap
	if isolated {
		line += " isolated"
	}
	f.plugs = append(f.plugs, line)
	return nil
}

// Leases implements network.Host.
func (f *Fake) Leases(id uuid.UUID) ([]dhcp.Lease, error) {
	err := f.enter("Leases", "")
	defer f.mu.Unlock()
	return slices.Clone(f.leases[id]), err
}

// ForgetLeases implements network.Host.
func (f *Fake) ForgetLeases(id uuid.UUID) error {
	err := f.enter("ForgetLeases", "")
	defer f.mu.Unlock()
	delete(f.leases, id)
	return err
}
