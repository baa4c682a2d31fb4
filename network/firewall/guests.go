package firewall

import (
	"errors"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Guests is the table bridge virtd: what the guests behind taps may send and get. The zero value is ready. Its methods are safe
// for concurrent use and work in the network namespace of the calling thread.
//
// Frames are looked at where they enter and leave a bridge. A map leads those of a tap to its chains, so that a tap without a
// filter costs one look-up whatever the number of others. What is learned of a guest's addresses stays in the kernel, and
// so survives virtd.
type Guests struct {
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
	if err := replace(tap, f); err != nil {
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
	if err := replace(tap, nil); err != nil {
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

// Restore makes the filters that are missing and removes those of other taps. Those that are there stay as they are.
func (g *Guests) Restore() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	taps := g.taps
	there, err := filtered()
	if len(taps) == 0 && err != nil {
		return nil // a kernel without filters has none that could be left
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, tap := range there {
		if taps[tap] == nil {
			errs = append(errs, replace(tap, nil))
		}
	}
	for tap, f := range taps {
		if !slices.Contains(there, tap) {
			errs = append(errs, replace(tap, f))
		}
	}
	return errors.Join(errs...)
}

func guestTable() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyBridge}
}

// filtered returns the taps that have chains.
func filtered() ([]string, error) {
	c, err := dial()
	if err != nil {
		return nil, failed("open the packet filter", err)
	}
	chains, err := guestChainNames(c)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range chains {
		if tap := tapOf(name); tap != "" && name == fromChain(tap) {
			out = append(out, tap)
		}
	}
	return out, nil
}

// guestChainNames returns the table's chains.
func guestChainNames(c *nftables.Conn) ([]string, error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyBridge)
	if err != nil {
		return nil, failed("list the chains of the packet filter", err)
	}
	var out []string
	for _, ch := range chains {
		if ch.Table.Name == TableName {
			out = append(out, ch.Name)
		}
	}
	return out, nil
}

// replace puts a filter in place of what a tap has, in one step; nil for none. The table goes with its last filter.
func replace(tap string, f *Filter) error {
	c, err := dial()
	if err != nil {
		return failed("open the packet filter", err)
	}
	chains, err := guestChainNames(c)
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
	switch table := guestTable(); {
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
			if err := addGuest(c, table, tap, f); err != nil {
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

// addGuest queues a tap's chains, and the table where it is missing.
func addGuest(c *nftables.Conn, table *nftables.Table, tap string, f *Filter) error {
	c.AddTable(table)
	accept := nftables.ChainPolicyAccept
	from, to := verdictMap(table, mapFrom), verdictMap(table, mapTo)
	there, err := present(c, nftables.TableFamilyBridge)
	if err != nil {
		return err
	}
	if !there {
		if err := errors.Join(c.AddSet(from, nil), c.AddSet(to, nil)); err != nil {
			return failedGuest(tap, f, err)
		}
		ingress := c.AddChain(&nftables.Chain{Name: chainIngress, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(bridgeFilter), Policy: &accept})
		egress := c.AddChain(&nftables.Chain{Name: chainEgress, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(bridgeFilter), Policy: &accept})
		c.AddRule(&nftables.Rule{Table: table, Chain: ingress, Exprs: []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Lookup{SourceRegister: 1, IsDestRegSet: true, DestRegister: 0, SetName: mapFrom, SetID: from.ID}}})
		c.AddRule(&nftables.Rule{Table: table, Chain: egress, Exprs: []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Lookup{SourceRegister: 1, IsDestRegSet: true, DestRegister: 0, SetName: mapTo, SetID: to.ID}}})
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
