package firewall

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// dockerUser is the chain that Docker keeps for rules of others before its own, and leaves alone when it restarts.
const dockerUser = "DOCKER-USER"

// Open has the chains of others that drop what they do not know accept what goes between these bridges and the world, and what
// guests ask of the host, in the network namespace of the calling thread. The rules are the first of Docker's chain DOCKER-USER
// where forwarded packets pass that, else of the chain that drops, and have a comment by which they are known again: those that are
// there stay, those of other bridges go, and rules of others are neither changed nor moved. It returns what it did, a line each,
// nothing when all was as it should be. Without bridges it takes back all of its rules. firewalld's chains are left to package
// firewalld.
func (t Tables) Open(bridges []string) (done []string, err error) {
	const tries = 3 // of who flushes or restarts at this moment
	for n := 1; ; n++ {
		more, err := t.open(bridges)
		done = append(done, more...)
		if n == tries || !errors.Is(err, unix.ENOENT) {
			return done, err
		}
	}
}

func (t Tables) open(bridges []string) (done []string, err error) {
	c, list, err := foreignChains()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, at := range list { // each alone: a table that only its owner may change keeps no other closed
		var want []rule
		if at.opens() {
			want = openings(at.hook(), at.chain.Table.Family, bridges)
		}
		changes, err := t.openChain(c, at, want)
		if err == nil && len(changes) > 0 {
			err = c.Flush()
		}
		if err != nil {
			errs = append(errs, failed("change rules for networks in "+at.String(), err))
			continue
		}
		done = append(done, changes...)
	}
	return done, errors.Join(errs...)
}

// openChain has exactly these rules of virtd in a chain with the next flush, and says what that changes. Of two that are the same
// the second goes.
func (t Tables) openChain(c *nftables.Conn, at *foreignChain, want []rule) (done []string, err error) {
	missing := map[string]bool{}
	for _, r := range want {
		missing[t.commentOf(r)] = true
	}
	for _, r := range at.rules {
		text := comment(r)
		what, mine := strings.CutPrefix(text, t.Name()+": ")
		if !mine {
			continue
		}
		if missing[text] {
			delete(missing, text)
			continue
		}
		r.Table, r.Chain = at.chain.Table, at.chain
		if err := c.DelRule(r); err != nil {
			return nil, fmt.Errorf("remove a rule: %w", err)
		}
		done = append(done, fmt.Sprintf("removed from %s: %s", at, what))
	}
	for _, r := range slices.Backward(want) { // each becomes the first
		text := t.commentOf(r)
		if !missing[text] {
			continue
		}
		c.InsertRule(&nftables.Rule{
			Table: at.chain.Table, Chain: at.chain, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, text),
		})
		done = append(done, fmt.Sprintf("added to %s: %s", at, r.text))
	}
	return done, nil
}

// commentOf is the comment of a rule: whose it is, and what it does. Bridges' names keep it within the 128 bytes that nft shows.
func (t Tables) commentOf(r rule) string { return t.Name() + ": " + r.text }

// comment reads a rule's, "" where it has none. After iptables-save and iptables-restore it is one of iptables.
func comment(r *nftables.Rule) string {
	for _, e := range r.Exprs {
		if text, says := xtComment(e); says {
			return text
		}
	}
	text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return text
}

// xtComment reads iptables' match of that name, which every packet meets.
func xtComment(e expr.Any) (text string, says bool) {
	if m, is := e.(*expr.Match); is {
		if c, is := m.Info.(*xt.Comment); is {
			return string(*c), true
		}
	}
	return "", false
}

// openings are the rules for a chain of somebody else. They are of the forms that iptables-nft can show and save, which gives up a
// whole table for one rule that it does not understand: that leaves out sets of ports.
func openings(hook string, family nftables.TableFamily, bridges []string) []rule {
	var out []rule
	for _, b := range bridges {
		if hook == hookForward {
			out = append(out, inChain("").in(b).counter().verdict("accept"), inChain("").out(b).counter().verdict("accept"))
			continue
		}
		for _, s := range served {
			if s.family == nftables.TableFamilyINet || family == nftables.TableFamilyINet || s.family == family {
				r := inChain("").in(b).protocol(s.protocol)
				if s.port != 0 {
					r = r.dport(s.port)
				}
				out = append(out, r.counter().verdict("accept"))
			}
		}
	}
	return out
}

// served is what guests ask of the host: names, addresses, files to boot from, and by ICMPv6 who and where the router is.
var served = []struct {
	protocol byte
	port     uint16
	family   nftables.TableFamily // inet: both
}{
	{unix.IPPROTO_UDP, 53, nftables.TableFamilyINet}, {unix.IPPROTO_TCP, 53, nftables.TableFamilyINet},
	{unix.IPPROTO_UDP, 67, nftables.TableFamilyIPv4}, {unix.IPPROTO_UDP, 69, nftables.TableFamilyINet},
	{unix.IPPROTO_UDP, 547, nftables.TableFamilyIPv6}, {unix.IPPROTO_ICMPV6, 0, nftables.TableFamilyIPv6},
}

// foreignChain is a chain of somebody else in which rules of virtd can be.
type foreignChain struct {
	chain *nftables.Chain
	rules []*nftables.Rule
	drops bool // what it does not know: by its policy or its last rule
	// user is Docker's chain for rules of others, to which this one goes; of DOCKER-USER itself, the chain that goes there.
	user, base *foreignChain
}

// The hooks at which virtd has a look at others.
const (
	hookForward = "forward"
	hookInput   = "input"
)

func (f *foreignChain) String() string {
	return "chain " + f.chain.Name + " of table " + f.table()
}

func (f *foreignChain) table() string {
	return families[f.chain.Table.Family] + " " + f.chain.Table.Name
}

// hook is where packets get to the chain, "" if they do not.
func (f *foreignChain) hook() string {
	if f.base != nil {
		return f.base.hook()
	}
	if f.chain.Hooknum == nil {
		return ""
	}
	return map[nftables.ChainHook]string{*nftables.ChainHookForward: hookForward, *nftables.ChainHookInput: hookInput}[*f.chain.Hooknum]
}

// opens reports whether rules for networks belong into the chain.
func (f *foreignChain) opens() bool {
	switch {
	case f.table() == firewalldTable:
		return false
	case f.base != nil:
		return f.base.drops
	}
	return f.drops && f.user == nil && f.hook() != ""
}

var families = map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}

// foreignChains returns the chains of others at the hooks, and Docker's for rules of others, with their rules, and what can
// change them.
func foreignChains() (c *nftables.Conn, out []*foreignChain, err error) {
	if c, err = dial(); err != nil {
		return nil, nil, failed("open the packet filter", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, nil, failed("list the chains of the packet filter", err)
	}
	users := map[string]*foreignChain{} // by table
	for _, ch := range chains {
		f := &foreignChain{chain: ch}
		if families[ch.Table.Family] == "" || virtds(ch.Table.Name) || f.hook() == "" && ch.Name != dockerUser {
			continue
		}
		if f.rules, err = c.GetRules(ch.Table, ch); errors.Is(err, unix.ENOENT) {
			continue // it is gone since
		} else if err != nil {
			return nil, nil, failed("list the rules of the packet filter", err)
		}
		f.drops = ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop || endsInDrop(f.rules)
		if ch.Name == dockerUser {
			users[f.table()] = f
		}
		out = append(out, f)
	}
	for _, f := range out {
		if user := users[f.table()]; user != nil && f.hook() == hookForward && goesTo(f.rules, dockerUser) {
			f.user, user.base = user, f
		}
	}
	return c, out, nil
}

// goesTo reports whether one of the rules leads every packet to a chain.
func goesTo(list []*nftables.Rule, chain string) bool {
	return slices.ContainsFunc(list, func(r *nftables.Rule) bool {
		v := verdictOf(r)
		return v != nil && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) && v.Chain == chain
	})
}

// verdictOf is that of a rule which every packet meets, nil for rules with conditions or without a verdict.
func verdictOf(r *nftables.Rule) (verdict *expr.Verdict) {
	for _, e := range r.Exprs {
		if _, says := xtComment(e); says {
			continue
		}
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Verdict:
			verdict = e
		default:
			return nil
		}
	}
	return verdict
}

// opened reports whether the chain, or Docker's that it goes to, has rules of a virtd.
func (f *foreignChain) opened() bool {
	at := f
	if f.user != nil {
		at = f.user
	}
	return slices.ContainsFunc(at.rules, func(r *nftables.Rule) bool {
		name, _, ok := strings.Cut(comment(r), ": ")
		return ok && virtds(name)
	})
}
