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

// Firewalld reports whether the chain is firewalld's.
func (o Obstacle) Firewalld() bool { return o.Table == firewalldTable }

// option is what has virtd do what Obstacle's String recommends.
const option = "; open_foreign_firewalls = 1 in virtd.conf has virtd do that"

// String says what is in the way and what helps.
func (o Obstacle) String() string {
	what, rules := "packets between guests and the world", []string{`iifname "virbr*" accept`, `oifname "virbr*" accept`}
	if o.Hook == hookInput {
		what, rules = "guests' questions for addresses and names", []string{`iifname "virbr*" udp dport { 53, 67, 547 } accept`, `iifname "virbr*" tcp dport 53 accept`}
	}
	if o.Firewalld() {
		return fmt.Sprintf("chain %s of firewalld drops %s unless their bridge is in a zone that accepts them: "+
			"firewall-cmd --permanent --zone=trusted --add-interface=virbr0, for each bridge, and firewall-cmd --reload%s", o.Chain, what, option)
	}
	for i, r := range rules {
		rules[i] = fmt.Sprintf("nft insert rule %s %s %s", o.Table, o.Chain, r)
	}
	return fmt.Sprintf("chain %s of table %s drops %s unless a rule there accepts them: %s%s", o.Chain, o.Table, what, strings.Join(rules, "; "), option)
}

// Obstacles returns the chains of other tables that drop packets by default: by their policy, as Docker's, or by a last rule that
// every packet meets, as firewalld's. Those that a virtd opened are not in the way.
func Obstacles() ([]Obstacle, error) {
	_, list, err := foreignChains()
	if err != nil {
		return nil, err
	}
	var out []Obstacle
	for _, f := range list {
		if f.chain.Hooknum != nil && f.drops && !f.opened() {
			out = append(out, Obstacle{Table: f.table(), Chain: f.chain.Name, Hook: f.hook()})
		}
	}
	return out, nil
}

// virtds reports whether a table is a virtd's, this one or another.
func virtds(table string) bool {
	return table == tablesName || strings.HasPrefix(table, tablesName+"-")
}

// endsInDrop reports whether the last of a chain's rules drops or rejects whatever comes to it.
func endsInDrop(list []*nftables.Rule) bool {
	if len(list) == 0 {
		return false
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
			return false // a condition
		}
	}
	return decided
}
