package firewall

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Guests is the table of family bridge: what the guests behind taps may send and get. The zero value is ready, in the table of
// the system's virtd. Its methods are safe for concurrent use and work in the network namespace of the calling thread.
//
// Frames are looked at where they enter and leave a bridge. A map leads those of a tap to its chains, so that a tap without a
// filter costs one look-up whatever the number of others. What is learned of a guest's addresses stays in the kernel, and
// so survives virtd.
type Guests struct {
	Tables Tables

	mu   sync.Mutex
	taps map[string]*Filter
}

// The parts of the table that all taps share.
const (
	chainIngress = "prerouting"
	chainEgress  = "postrouting"
	mapFrom      = "from"
	mapTo        = "to"
)

// Set filters a tap from now on, in place of what was filtered there before. What was learned of the guest is forgotten.
func (g *Guests) Set(tap string, f *Filter) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.replace(tap, f); err != nil {
		return err
	}
	if g.taps == nil {
		g.taps = map[string]*Filter{}
	}
	g.taps[tap] = f
	return nil
}

// Remove ends the filtering of a tap; one that is not filtered is no error.
func (g *Guests) Remove(tap string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.taps[tap] == nil {
		return nil
	}
	if err := g.replace(tap, nil); err != nil {
		return err
	}
	delete(g.taps, tap)
	return nil
}

// Keep says that a tap is filtered already, for a process that begins. Restore follows when all are known.
func (g *Guests) Keep(tap string, f *Filter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.taps == nil {
		g.taps = map[string]*Filter{}
	}
	g.taps[tap] = f
}

// Restore is Repair for who does not ask what was missing.
func (g *Guests) Restore() error {
	_, err := g.Repair()
	return err
}

// Repair makes the filters that are missing or not whole, and removes those of other taps. Those that are there stay as they
// are, and what was learned stays learned as long as its set is there. The number of filters that it made is returned.
func (g *Guests) Repair() (made int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, err := g.state()
	if len(g.taps) == 0 && err != nil {
		return 0, nil // a kernel without filters has none that could be left
	}
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, name := range s.chains {
		if tap := tapOf(name); tap != "" && name == fromChain(tap) && g.taps[tap] == nil {
			errs = append(errs, g.replace(tap, nil))
		}
	}
	for tap, f := range g.taps {
		if s.whole(tap, f) {
			continue
		}
		made++
		errs = append(errs, g.mend(tap, f))
	}
	return made, errors.Join(errs...)
}

// guestState is what is in the table.
type guestState struct {
	chains   []string
	rules    map[string]int  // by chain
	elements map[string]bool // of both maps: the map's name, and the tap
}

func (g *Guests) state() (guestState, error) {
	c, err := dial()
	if err != nil {
		return guestState{}, failed("open the packet filter", err)
	}
	s := guestState{elements: map[string]bool{}}
	if s.chains, err = g.chainNames(c); err != nil || len(s.chains) == 0 {
		return s, err
	}
	if s.rules, err = g.Tables.count(nftables.TableFamilyBridge); err != nil {
		return s, err
	}
	for _, name := range []string{mapFrom, mapTo} {
		list, err := c.GetSetElements(verdictMap(g.table(), name))
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return s, failed("list the taps of the packet filter", err)
		}
		for _, e := range list {
			tap, _, _ := strings.Cut(string(e.Key), "\x00")
			s.elements[name+" "+tap] = true
		}
	}
	return s, nil
}

// whole reports whether everything that filters a tap is there.
func (s guestState) whole(tap string, f *Filter) bool {
	want := map[string]int{chainIngress: 1, chainEgress: 1}
	for _, r := range guestRules(f, tap) {
		want[r.chain]++
	}
	for chain, n := range want {
		if s.rules[chain] != n {
			return false
		}
	}
	return s.elements[mapFrom+" "+tap] && s.elements[mapTo+" "+tap]
}

func (g *Guests) table() *nftables.Table { return g.Tables.of(nftables.TableFamilyBridge) }

// chainNames returns the table's chains.
func (g *Guests) chainNames(c *nftables.Conn) ([]string, error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyBridge)
	if err != nil {
		return nil, failed("list the chains of the packet filter", err)
	}
	var out []string
	for _, ch := range chains {
		if ch.Table.Name == g.Tables.Name() {
			out = append(out, ch.Name)
		}
	}
	return out, nil
}

// mend makes everything that filters a tap, over what is there of it.
func (g *Guests) mend(tap string, f *Filter) error {
	c, err := dial()
	if err != nil {
		return failed("open the packet filter", err)
	}
	if err := addGuest(c, g.table(), tap, f, true); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return failedGuest(tap, f, err)
	}
	return nil
}

// replace puts a filter in place of what a tap has, in one step; nil for none. The table goes with its last filter.
func (g *Guests) replace(tap string, f *Filter) error {
	c, err := dial()
	if err != nil {
		return failed("open the packet filter", err)
	}
	chains, err := g.chainNames(c)
	if err != nil {
		return err
	}
	mine, others := 0, 0
	for _, name := range chains {
		switch t := tapOf(name); t {
		case "":
		case tap:
			mine++
		default:
			others++
		}
	}
	switch table := g.table(); {
	case f == nil && mine == 0 && others > 0:
		return nil
	case f == nil && others == 0:
		if len(chains) == 0 {
			return nil
		}
		c.DelTable(table)
	default:
		if mine > 0 {
			dropGuest(c, table, tap, chains)
		}
		if f != nil {
			if err := addGuest(c, table, tap, f, !slices.Contains(chains, chainIngress)); err != nil {
				return err
			}
		}
	}
	if err := c.Flush(); err != nil {
		if f == nil {
			return failed("remove the filter of "+tap, err)
		}
		return failedGuest(tap, f, err)
	}
	return nil
}

func failedGuest(tap string, f *Filter, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EPERM):
		hint = " (needs CAP_NET_ADMIN)"
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT):
		hint = " (the kernel needs nf_tables with CONFIG_NF_TABLES_BRIDGE)"
	}
	return virterr.NewFrom(virterr.FromNWFilter, virterr.SystemError, "Unable to set filter '%s' of interface %s: %w%s", f.Name, tap, err, hint)
}

// verdictMap is one of the two maps from a tap's name to its chain.
func verdictMap(table *nftables.Table, name string) *nftables.Set {
	return &nftables.Set{Table: table, Name: name, IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
}

func mapElement(tap, chain string) []nftables.SetElement {
	return []nftables.SetElement{{Key: linkName(tap), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}}
}

// dropGuest queues the removal of what a tap has. What refers to something goes before it.
func dropGuest(c *nftables.Conn, table *nftables.Table, tap string, chains []string) {
	for name, chain := range map[string]string{mapFrom: fromChain(tap), mapTo: toChain(tap)} {
		if slices.Contains(chains, chain) {
			_ = c.SetDeleteElements(verdictMap(table, name), mapElement(tap, chain)) // fails for anonymous sets only
		}
	}
	var mine []*nftables.Chain
	for _, name := range chains {
		if tapOf(name) == tap {
			mine = append(mine, &nftables.Chain{Table: table, Name: name})
		}
	}
	for _, ch := range mine {
		c.FlushChain(ch)
	}
	for _, ch := range mine {
		c.DelChain(ch)
	}
	c.DelSet(&nftables.Set{Table: table, Name: learnedSet(tap)})
}

// addShared queues what all taps share, as new or over what is there.
func addShared(c *nftables.Conn, table *nftables.Table, from, to *nftables.Set) {
	accept := nftables.ChainPolicyAccept
	for _, hook := range []struct {
		chain string
		at    *nftables.ChainHook
		key   expr.MetaKey
		taps  *nftables.Set
	}{{chainIngress, nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME, from}, {chainEgress, nftables.ChainHookPostrouting, expr.MetaKeyOIFNAME, to}} {
		ch := c.AddChain(&nftables.Chain{Name: hook.chain, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook.at,
			Priority: nftables.ChainPriorityRef(bridgeFilter), Policy: &accept})
		c.FlushChain(ch)
		c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{&expr.Meta{Key: hook.key, Register: 1},
			&expr.Lookup{SourceRegister: 1, IsDestRegSet: true, DestRegister: 0, SetName: hook.taps.Name, SetID: hook.taps.ID}}})
	}
}

// addGuest queues a tap's chains, as new ones or over those that are there, and with shared what all taps share.
func addGuest(c *nftables.Conn, table *nftables.Table, tap string, f *Filter, shared bool) error {
	from, to := verdictMap(table, mapFrom), verdictMap(table, mapTo)
	if shared {
		c.AddTable(table)
		if err := errors.Join(c.AddSet(from, nil), c.AddSet(to, nil)); err != nil {
			return failedGuest(tap, f, err)
		}
		addShared(c, table, from, to)
	}
	size := uint32(1)
	if f.Learn == learnDHCP {
		size = maxAddresses
	}
	learned := &nftables.Set{Table: table, Name: learnedSet(tap), KeyType: nftables.TypeIPAddr, Dynamic: true, Size: size}
	if err := c.AddSet(learned, nil); err != nil {
		return failedGuest(tap, f, err)
	}
	list := guestRules(f, tap)
	chains := map[string]*nftables.Chain{}
	for _, name := range append(chainsOf(list), fromChain(tap), toChain(tap)) {
		if chains[name] == nil {
			chains[name] = c.AddChain(&nftables.Chain{Name: name, Table: table})
			c.FlushChain(chains[name])
		}
	}
	for _, r := range list {
		for _, e := range r.exprs {
			switch e := e.(type) {
			case *expr.Lookup:
				e.SetID = learned.ID
			case *expr.Dynset:
				e.SetID = learned.ID
			}
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chains[r.chain], Exprs: r.exprs})
	}
	if err := errors.Join(c.SetAddElements(from, mapElement(tap, fromChain(tap))), c.SetAddElements(to, mapElement(tap, toChain(tap)))); err != nil {
		return failedGuest(tap, f, err)
	}
	return nil
}

// chainsOf returns the chains of rules.
func chainsOf(list []rule) []string {
	var out []string
	for _, r := range list {
		if !slices.Contains(out, r.chain) {
			out = append(out, r.chain)
		}
	}
	return out
}

// bridgeFilter is the priority of filters in bridges (NF_BR_PRI_FILTER_BRIDGED): before netfilter of IP sees the frames.
const bridgeFilter = nftables.ChainPriority(-200)
