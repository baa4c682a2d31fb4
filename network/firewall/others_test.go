package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// base adds a chain of somebody else at a hook.
func base(c *nftables.Conn, table *nftables.Table, name string, hook *nftables.ChainHook, policy nftables.ChainPolicy) *nftables.Chain {
	return c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy})
}

// with adds rules to a chain of somebody else, which get a comment.
func with(c *nftables.Conn, ch *nftables.Chain, comment string, list ...rule) {
	for _, r := range list {
		c.AddRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, comment)})
	}
}

// docker makes what Docker makes (daemon's iptables rules on nf_tables): a chain for forwarded packets that drops, and that asks
// DOCKER-USER first.
func docker(t *testing.T, c *nftables.Conn) (forward, user *nftables.Chain) {
	t.Helper()
	table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	user = c.AddChain(&nftables.Chain{Name: dockerUser, Table: table})
	forward = base(c, table, "FORWARD", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	base(c, table, "INPUT", nftables.ChainHookInput, nftables.ChainPolicyAccept)
	with(c, user, "the admin's", inChain("").in("eth7").counter().verdict("drop"), inChain("").counter().verdict("return"))
	with(c, forward, "Docker's", inChain("").counter().add("", &expr.Verdict{Kind: expr.VerdictJump, Chain: dockerUser}),
		inChain("").established().verdict("accept"))
	flush(t, c)
	return forward, user
}

func flush(t *testing.T, c *nftables.Conn) {
	t.Helper()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// ruleset shows all rules in their order: virtds' by their comment, those of others by their handle too, which a rule keeps as long
// as it is there.
func ruleset(t *testing.T, c *nftables.Conn) string {
	t.Helper()
	chains, err := c.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, ch := range chains {
		list, err := c.GetRules(ch.Table, ch)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%s %s %s:\n", families[ch.Table.Family], ch.Table.Name, ch.Name)
		for _, r := range list {
			if says := comment(r); strings.HasPrefix(says, tablesName) {
				text += "  " + says + "\n"
			} else {
				text += fmt.Sprintf("  %d %s\n", r.Handle, says)
			}
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// opened has a virtd open others' chains and checks how much that changed.
func opened(t *testing.T, of Tables, changes int, bridges ...string) {
	t.Helper()
	done, err := of.Open(bridges)
	if err != nil || len(done) != changes {
		t.Fatalf("%d changes for %v, want %d: %q, %v", len(done), bridges, changes, done, err)
	}
}

// TestOpenDocker: bridges of networks are let through first in DOCKER-USER, once, until they are gone; what others have there stays
// where it is, rules of another virtd too.
func TestOpenDocker(t *testing.T) {
	c := inNamespace(t)
	_, user := docker(t, c)
	before := ruleset(t, c)
	if found, err := Obstacles(); err != nil || len(found) != 1 {
		t.Fatalf("obstacles %v, %v", found, err)
	}
	opened(t, "", 0)
	if diff := cmp.Diff(before, ruleset(t, c)); diff != "" {
		t.Fatalf("without networks somebody else's rules changed: -before +after\n%s", diff)
	}
	opened(t, "", 4, "virbr0", "virbr1")
	head := "ip filter DOCKER-USER:\n"
	both := strings.Replace(before, head, head+"  virtd: iifname virbr0 accept\n  virtd: oifname virbr0 accept\n"+
		"  virtd: iifname virbr1 accept\n  virtd: oifname virbr1 accept\n", 1)
	same := func(what, want string) {
		t.Helper()
		if diff := cmp.Diff(want, ruleset(t, c)); diff != "" {
			t.Errorf("%s: -want +got\n%s", what, diff)
		}
	}
	same("opened", both)
	if found, err := Obstacles(); err != nil || len(found) != 0 {
		t.Errorf("in the way after all: %v, %v", found, err)
	}
	opened(t, "", 0, "virbr0", "virbr1")
	same("opened twice", both)

	with(c, user, "virtd: iifname virbr0 accept", inChain("").in("virbr0").verdict("accept"))
	flush(t, c)
	opened(t, "", 1, "virbr0", "virbr1")
	same("a copy of a rule", both)

	other := TablesOf("/tmp/other")
	opened(t, other, 2, "virbr0")
	opened(t, "", 4)
	same("only another virtd", strings.ReplaceAll(strings.Replace(before, head, head+
		"  NAME: iifname virbr0 accept\n  NAME: oifname virbr0 accept\n", 1), "NAME", other.Name()))
	opened(t, other, 2)
	same("none", before)

	opened(t, "", 2, "virbr0")
	c.FlushChain(user)
	flush(t, c)
	opened(t, "", 2, "virbr0")
	c.FlushChain(user)
	c.DelTable(user.Table)
	flush(t, c)
	opened(t, "", 0, "virbr0")
}

// TestOpenSaved: rules that went through iptables-save and iptables-restore, which make their comments a match of iptables, are
// known again, and so is Docker's jump with a comment.
func TestOpenSaved(t *testing.T) {
	c := inNamespace(t)
	says := func(text string) *expr.Match {
		info := xt.Comment(text)
		return &expr.Match{Name: "comment", Info: &info}
	}
	table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	user := c.AddChain(&nftables.Chain{Name: dockerUser, Table: table})
	forward := base(c, table, "FORWARD", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	add := func(ch *nftables.Chain, r rule) { c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: r.exprs}) }
	add(forward, inChain("").add("", says("Docker's"), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictJump, Chain: dockerUser}))
	for _, b := range []string{"virbr0", "stale0"} {
		add(user, inChain("").in(b).add("", says("virtd: iifname "+b+" accept")).counter().verdict("accept"))
		add(user, inChain("").out(b).add("", says("virtd: oifname "+b+" accept")).counter().verdict("accept"))
	}
	if err := c.Flush(); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("needs iptables' matches in nftables (CONFIG_NFT_COMPAT, CONFIG_NETFILTER_XT_MATCH_COMMENT)")
	} else if err != nil {
		t.Fatal(err)
	}
	opened(t, "", 2, "virbr0")
	if got, want := ruleset(t, c), "ip filter DOCKER-USER:\n  virtd: iifname virbr0 accept\n  virtd: oifname virbr0 accept\n"; !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s", got)
	}
	opened(t, "", 2)
	if list, err := c.GetRules(table, user); err != nil || len(list) != 0 {
		t.Errorf("%d rules are left, %v", len(list), err)
	}
}

// TestOpenDropping: chains that drop at the hooks get rules of what virtd's networks need there; those that accept, those of
// firewalld, at other hooks and of other families get none.
func TestOpenDropping(t *testing.T) {
	c := inNamespace(t)
	mine := c.AddTable(&nftables.Table{Name: "mine", Family: nftables.TableFamilyINet})
	with(c, base(c, mine, "in", nftables.ChainHookInput, nftables.ChainPolicyAccept), "refuse", inChain("").established().verdict("accept"), inChain("").reject())
	base(c, mine, "out", nftables.ChainHookOutput, nftables.ChainPolicyDrop)
	with(c, base(c, mine, "harmless", nftables.ChainHookForward, nftables.ChainPolicyAccept), "one", inChain("").in("eth7").verdict("drop"))
	c.AddChain(&nftables.Chain{Name: dockerUser, Table: mine}) // to which nothing goes
	six := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv6})
	base(c, six, "FORWARD", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	base(c, six, "INPUT", nftables.ChainHookInput, nftables.ChainPolicyDrop)
	firewalld := c.AddTable(&nftables.Table{Name: "firewalld", Family: nftables.TableFamilyINet})
	base(c, firewalld, "filter_FORWARD", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	bridges := c.AddTable(&nftables.Table{Name: "mine", Family: nftables.TableFamilyBridge})
	base(c, bridges, "FORWARD", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	flush(t, c)
	before := ruleset(t, c)

	opened(t, "", 13, "virbr0")
	want := strings.Replace(before, "inet mine in:\n", `inet mine in:
  virtd: iifname virbr0 l4proto udp dport 53 accept
  virtd: iifname virbr0 l4proto tcp dport 53 accept
  virtd: iifname virbr0 l4proto udp dport 67 accept
  virtd: iifname virbr0 l4proto udp dport 69 accept
  virtd: iifname virbr0 l4proto udp dport 547 accept
  virtd: iifname virbr0 l4proto ipv6-icmp accept
`, 1)
	want = strings.Replace(want, "ip6 filter FORWARD:\n", "ip6 filter FORWARD:\n  virtd: iifname virbr0 accept\n  virtd: oifname virbr0 accept\n", 1)
	want = strings.Replace(want, "ip6 filter INPUT:\n", `ip6 filter INPUT:
  virtd: iifname virbr0 l4proto udp dport 53 accept
  virtd: iifname virbr0 l4proto tcp dport 53 accept
  virtd: iifname virbr0 l4proto udp dport 69 accept
  virtd: iifname virbr0 l4proto udp dport 547 accept
  virtd: iifname virbr0 l4proto ipv6-icmp accept
`, 1)
	if diff := cmp.Diff(want, ruleset(t, c)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	opened(t, "", 0, "virbr0")
	opened(t, "", 13)
	if diff := cmp.Diff(before, ruleset(t, c)); diff != "" {
		t.Errorf("-before +after\n%s", diff)
	}
}

// TestWatchOthers: what somebody takes out of their chains is there again within a second, chains that come later are opened, and
// virtd's own tables are not watched here.
func TestWatchOthers(t *testing.T) {
	c := inNamespace(t)
	done := make(chan []string, 10)
	calls := make(chan bool, 100)
	watching(t, func(ctx context.Context) error {
		return WatchOthers(ctx, func() {
			calls <- true
			changed, err := Tables("").Open([]string{"virbr0"})
			if err != nil {
				t.Error(err)
			}
			if len(changed) > 0 {
				done <- changed
			}
		})
	})
	opens := func(what string) {
		t.Helper()
		select {
		case changed := <-done:
			if len(changed) != 2 {
				t.Errorf("%s: %q", what, changed)
			}
		case <-time.After(time.Second + settleTime):
			t.Fatalf("%s: not opened", what)
		}
	}
	_, user := docker(t, c)
	opens("Docker starts")
	c.FlushChain(user)
	flush(t, c)
	opens("DOCKER-USER is flushed")
	rules, err := c.GetRules(user.Table, user)
	if err != nil || len(rules) != 2 {
		t.Fatalf("%d rules, %v", len(rules), err)
	}
	rules[1].Table, rules[1].Chain = user.Table, user
	if err := c.DelRule(rules[1]); err != nil {
		t.Fatal(err)
	}
	flush(t, c)
	select {
	case changed := <-done:
		if len(changed) != 1 {
			t.Errorf("one rule is gone: %q", changed)
		}
	case <-time.After(time.Second + settleTime):
		t.Fatal("one rule is gone: not put back")
	}
	time.Sleep(3 * settleTime) // the notice of virtd's own change
	for len(calls) > 0 {
		<-calls
	}
	if err := Tables("").Apply(networks); err != nil {
		t.Fatal(err)
	}
	select {
	case <-calls:
		t.Error("virtd's own table counts as somebody else's")
	case <-time.After(3 * settleTime):
	}
}
