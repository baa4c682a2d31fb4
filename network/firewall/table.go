package firewall

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// TableName is the name of virtd's tables: of family inet for networks, of family bridge for guests.
const TableName = "virtd"

// Apply replaces the table by the rules of these networks, in the network namespace of the calling thread. Without networks
// there is no table.
func Apply(networks []Network) error {
	c, err := dial()
	if err != nil {
		return failed("open the packet filter", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	if len(networks) == 0 {
		if there, err := present(c, nftables.TableFamilyINet); err != nil || !there {
			return err
		}
	}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	if len(networks) > 0 {
		build(c, table, rules(networks))
	}
	if err := c.Flush(); err != nil {
		return failed("replace table inet "+TableName, err)
	}
	return nil
}

// bufferSize is that of the sockets, in bytes: a change of many networks is one message with all rules, and the kernel answers
// each of them before anybody reads.
const bufferSize = 32 << 20

// dial opens the packet filter of the calling thread's namespace. Who may not have large buffers does with those that there are.
func dial() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		_, _ = c.SetReadBuffer(bufferSize), c.SetWriteBuffer(bufferSize)
		return nil
	}))
}

func build(c *nftables.Conn, table *nftables.Table, list []rule) {
	c.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chains := map[string]*nftables.Chain{
		chainForward: {Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept},
		chainNAT:     {Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: &accept},
		chainCross:   {}, chainToGuest: {}, chainToWorld: {},
	}
	for _, name := range []string{chainCross, chainToGuest, chainToWorld, chainForward, chainNAT} {
		chain := chains[name]
		chain.Name, chain.Table = name, table
		c.AddChain(chain)
	}
	for _, r := range list {
		c.AddRule(&nftables.Rule{Table: table, Chain: chains[r.chain], Exprs: r.exprs})
	}
}

// failed explains why the kernel refuses.
func failed(what string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EPERM):
		hint = " (needs CAP_NET_ADMIN)"
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		hint = " (load the kernel modules nf_tables, nft_masq, nft_reject_inet and nft_ct)"
	}
	return virterr.NewFrom(virterr.FromNetwork, virterr.SystemError, "Unable to %s: %w%s", what, err, hint)
}

// Obstacle is a chain of somebody else that drops what it does not know.
type Obstacle struct {
	Table string // as nft writes it: ip filter
	Chain string
	Hook  string // forward or input
}

// String says what is in the way and what helps.
func (o Obstacle) String() string {
	what, fix := "packets between guests and the world", "iifname \"virbr*\" accept; nft insert rule %s %s oifname \"virbr*\" accept"
	if o.Hook == "input" {
		what, fix = "guests' questions for addresses and names", "iifname \"virbr*\" udp dport { 53, 67 } accept"
	}
	at := []any{o.Table, o.Chain, o.Table, o.Chain}
	return fmt.Sprintf("chain %s of table %s drops %s unless a rule there accepts them: nft insert rule %s %s "+fix,
		append([]any{o.Chain, o.Table, what}, at[:2+strings.Count(fix, "%s")]...)...)
}

// Obstacles returns the chains of other tables that drop packets by default.
func Obstacles() ([]Obstacle, error) {
	c, err := dial()
	if err != nil {
		return nil, failed("open the packet filter", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, failed("list the chains of the packet filter", err)
	}
	var out []Obstacle
	for _, ch := range chains {
		if ch.Hooknum == nil || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop || ch.Table.Name == TableName {
			continue
		}
		family := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[ch.Table.Family]
		hook := map[nftables.ChainHook]string{*nftables.ChainHookForward: "forward", *nftables.ChainHookInput: "input"}[*ch.Hooknum]
		if family != "" && hook != "" {
			out = append(out, Obstacle{Table: family + " " + ch.Table.Name, Chain: ch.Name, Hook: hook})
		}
	}
	return out, nil
}
