package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Tables are those of one virtd: of family inet for its networks, of family bridge for its guests, both of this name. Others on
// the same host have tables of other names. The zero value is that of the system's virtd.
type Tables string

// tablesName is the name of the tables of the system's virtd, and how those of others begin.
const tablesName = "virtd"

// TablesOf returns the tables of the virtd whose directory for what runs is dir.
func TablesOf(dir string) Tables {
	sum := sha256.Sum256([]byte(dir))
	return Tables(tablesName + "-" + hex.EncodeToString(sum[:4]))
}

// Name is the name of both tables.
func (t Tables) Name() string {
	if t == "" {
		return tablesName
	}
	return string(t)
}

// Apply replaces the table of networks by the rules of the given ones, in the network namespace of the calling thread. Without
// networks there is no table.
func (t Tables) Apply(networks []Network) error {
	c, err := dial()
	if err != nil {
		return failed("open the packet filter", err)
	}
	table := t.of(nftables.TableFamilyINet)
	if len(networks) == 0 {
		if there, err := t.present(c, nftables.TableFamilyINet); err != nil || !there {
			return err
		}
	}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	if len(networks) > 0 {
		build(c, table, rules(networks))
	}
	if err := c.Flush(); err != nil {
		return failed("replace table inet "+t.Name(), err)
	}
	return nil
}

func (t Tables) of(family nftables.TableFamily) *nftables.Table {
	return &nftables.Table{Name: t.Name(), Family: family}
}

// Applied reports whether the table has the rules of these networks and no others, by their number in each chain.
func (t Tables) Applied(networks []Network) (bool, error) {
	have, err := t.count(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	want := map[string]int{}
	if len(networks) > 0 {
		for _, r := range rules(networks) {
			want[r.chain]++
		}
	}
	return maps.Equal(have, want), nil
}

// count returns the number of rules in each chain that has some.
func (t Tables) count(family nftables.TableFamily) (map[string]int, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, failed("open the packet filter", err)
	}
	defer c.Close()
	_ = c.SetReadBuffer(bufferSize)
	name, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(t.Name() + "\x00")}})
	if err != nil {
		return nil, failed("list the rules of the packet filter", err)
	}
	list, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, name...),
	})
	if err != nil {
		return nil, failed("list the rules of the packet filter", err)
	}
	out := map[string]int{}
	for _, m := range list {
		if table, chain, ok := ruleOf(m); ok && table == t.Name() { // old kernels tell all
			out[chain]++
		}
	}
	return out, nil
}

// ruleOf reads where a rule is.
func ruleOf(m netlink.Message) (table, chain string, ok bool) {
	if len(m.Data) < nfgenmsgSize {
		return "", "", false
	}
	attrs, err := netlink.NewAttributeDecoder(m.Data[nfgenmsgSize:])
	if err != nil {
		return "", "", false
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_RULE_TABLE:
			table = attrs.String()
		case unix.NFTA_RULE_CHAIN:
			chain = attrs.String()
		}
	}
	return table, chain, attrs.Err() == nil
}

// nfgenmsgSize is the size in bytes of what comes before the attributes of a message: family, version and resource.
const nfgenmsgSize = 4

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
