package firewall

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Obstacle is a chain of somebody else that drops, or rejects, what it does not know.
type Obstacle struct {
	Table string // as nft writes it: ip filter
	Chain string
	Hook  string // forward or input
}

// The table of firewalld, whose rules come back to what firewalld knows whenever that is reloaded.
const firewalldTable = "inet firewalld"

// String says what is in the way and what helps.
func (o Obstacle) String() string {
	what, rules := "packets between guests and the world", []string{`iifname "virbr*" accept`, `oifname "virbr*" accept`}
	if o.Hook == "input" {
		what, rules = "guests' questions for addresses and names", []string{`iifname "virbr*" udp dport { 53, 67, 547 } accept`}
	}
	if o.Table == firewalldTable {
		return fmt.Sprintf("chain %s of firewalld drops %s unless their bridge is in a zone that accepts them: "+
			"firewall-cmd --permanent --zone=trusted --add-interface=virbr0, for each bridge, and firewall-cmd --reload", o.Chain, what)
	}
	for i, r := range rules {
		rules[i] = fmt.Sprintf("nft insert rule %s %s %s", o.Table, o.Chain, r)
	}
	return fmt.Sprintf("chain %s of table %s drops %s unless a rule there accepts them: %s", o.Chain, o.Table, what, strings.Join(rules, "; "))
}

// Obstacles returns the chains of other tables that drop packets by default: by their policy, as Docker's, or by a last rule that
// every packet meets, as firewalld's.
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
		family := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[ch.Table.Family]
		if ch.Hooknum == nil || family == "" || virtds(ch.Table.Name) {
			continue
		}
		hook := map[nftables.ChainHook]string{*nftables.ChainHookForward: "forward", *nftables.ChainHookInput: "input"}[*ch.Hooknum]
		if hook == "" {
			continue
		}
		drops := ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		if !drops {
			if drops, err = endsInDrop(c, ch); err != nil {
				return nil, failed("list the rules of the packet filter", err)
			}
		}
		if drops {
			out = append(out, Obstacle{Table: family + " " + ch.Table.Name, Chain: ch.Name, Hook: hook})
		}
	}
	return out, nil
}

// virtds reports whether a table is a virtd's, this one or another.
func virtds(table string) bool {
	return table == tablesName || strings.HasPrefix(table, tablesName+"-")
}

// endsInDrop reports whether the chain's last rule drops or rejects whatever comes to it.
func endsInDrop(c *nftables.Conn, ch *nftables.Chain) (bool, error) {
	list, err := c.GetRules(ch.Table, ch)
	if err != nil || len(list) == 0 {
		return false, err
	}
	decided := false
	for _, e := range list[len(list)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			decided = true
		case *expr.Verdict:
			decided = e.Kind == expr.VerdictDrop
		default:
			return false, nil // a condition
		}
	}
	return decided, nil
}
