package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

var networks = []Network{
	{Bridge: "virbr0", Mode: NAT, Subnets: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd00::1/64")}, Ports: [2]uint16{1024, 65535}},
	{Bridge: "virbr1", Mode: Isolated, Subnets: []netip.Prefix{netip.MustParsePrefix("10.8.0.1/24")}},
	{Bridge: "virbr2", Mode: Routed, Device: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.7.0.1/24")}},
	{Bridge: "virbr3", Mode: NAT, NATIPv6: true, Device: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.6.0.1/24"), netip.MustParsePrefix("fd01::1/64")},
		Sources: [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.4")}, Ports: [2]uint16{5000, 6000}},
}

// TestRules: the rules of each mode, in their order.
func TestRules(t *testing.T) {
	want := `forward: jump cross
forward: jump to_guest
forward: jump from_guest
cross: iifname virbr0 oifname virbr0 accept
cross: iifname virbr1 oifname virbr1 accept
cross: iifname virbr2 oifname virbr2 accept
cross: iifname virbr3 oifname virbr3 accept
to_guest: oifname virbr0 ip daddr 10.9.0.0/24 ct state established,related return
to_guest: oifname virbr0 ip6 daddr fd00::/64 return
to_guest: oifname virbr0 reject
to_guest: oifname virbr1 reject
to_guest: iifname eth0 oifname virbr2 ip daddr 10.7.0.0/24 return
to_guest: oifname virbr2 reject
to_guest: iifname eth0 oifname virbr3 ip daddr 10.6.0.0/24 ct state established,related return
to_guest: iifname eth0 oifname virbr3 ip6 daddr fd01::/64 ct state established,related return
to_guest: oifname virbr3 reject
from_guest: iifname virbr0 ip saddr 10.9.0.0/24 accept
from_guest: iifname virbr0 ip6 saddr fd00::/64 accept
from_guest: iifname virbr0 reject
from_guest: iifname virbr1 reject
from_guest: iifname virbr2 oifname eth0 ip saddr 10.7.0.0/24 accept
from_guest: iifname virbr2 reject
from_guest: iifname virbr3 oifname eth0 ip saddr 10.6.0.0/24 accept
from_guest: iifname virbr3 oifname eth0 ip6 saddr fd01::/64 accept
from_guest: iifname virbr3 reject
postrouting: ip saddr 10.9.0.0/24 ip daddr 224.0.0.0/24 return
postrouting: ip saddr 10.9.0.0/24 ip daddr 255.255.255.255/32 return
postrouting: ip saddr 10.9.0.0/24 ip daddr != 10.9.0.0/24 l4proto tcp masquerade to :1024-65535
postrouting: ip saddr 10.9.0.0/24 ip daddr != 10.9.0.0/24 l4proto udp masquerade to :1024-65535
postrouting: ip saddr 10.9.0.0/24 ip daddr != 10.9.0.0/24 masquerade
postrouting: ip saddr 10.6.0.0/24 ip daddr 224.0.0.0/24 return
postrouting: ip saddr 10.6.0.0/24 ip daddr 255.255.255.255/32 return
postrouting: oifname eth0 ip saddr 10.6.0.0/24 ip daddr != 10.6.0.0/24 l4proto tcp snat ip to 192.0.2.1-192.0.2.4:5000-6000
postrouting: oifname eth0 ip saddr 10.6.0.0/24 ip daddr != 10.6.0.0/24 l4proto udp snat ip to 192.0.2.1-192.0.2.4:5000-6000
postrouting: oifname eth0 ip saddr 10.6.0.0/24 ip daddr != 10.6.0.0/24 snat ip to 192.0.2.1-192.0.2.4
postrouting: ip6 saddr fd01::/64 ip6 daddr ff02::/16 return
postrouting: oifname eth0 ip6 saddr fd01::/64 ip6 daddr != fd01::/64 l4proto tcp masquerade to :5000-6000
postrouting: oifname eth0 ip6 saddr fd01::/64 ip6 daddr != fd01::/64 l4proto udp masquerade to :5000-6000
postrouting: oifname eth0 ip6 saddr fd01::/64 ip6 daddr != fd01::/64 masquerade
`
	var got strings.Builder
	for _, r := range rules(networks) {
		got.WriteString(r.String() + "\n")
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// inNamespace moves the test to a network namespace of its own, which ends with the test's thread.
func inNamespace(t *testing.T) *nftables.Conn {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make a network namespace (CAP_SYS_ADMIN)")
	} else if err != nil {
		t.Fatal(err)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestApply: the kernel takes all rules in one step, however often, and leaves nothing when there are no networks.
func TestApply(t *testing.T) {
	c := inNamespace(t)
	count := func() int {
		chains, err := c.ListChains()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, ch := range chains {
			list, err := c.GetRules(ch.Table, ch)
			if err != nil {
				t.Fatal(err)
			}
			n += len(list)
		}
		return n
	}
	for range 3 {
		if err := Tables("").Apply(networks); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != len(rules(networks)) {
			t.Errorf("%d rules in the kernel, want %d", n, len(rules(networks)))
		}
	}
	for range 2 {
		if err := Tables("").Apply(nil); err != nil {
			t.Fatal(err)
		}
		if tables, err := c.ListTables(); err != nil || len(tables) != 0 {
			t.Errorf("tables left: %v, %v", tables, err)
		}
	}
}

// TestApplyMany: the rules of hundreds of networks are one change all the same.
func TestApplyMany(t *testing.T) {
	c := inNamespace(t)
	var many []Network
	for i := range 150 {
		n := networks[0]
		n.Bridge = fmt.Sprintf("virbr%d", i)
		many = append(many, n)
	}
	if err := Tables("").Apply(many); err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Name: tablesName, Family: nftables.TableFamilyINet}
	list, err := c.GetRules(table, &nftables.Chain{Name: chainCross, Table: table})
	if err != nil || len(list) != len(many) {
		t.Errorf("%d rules for %d networks, %v", len(list), len(many), err)
	}
}

// watching runs a watch in the test's namespace until the test ends, and returns once it listens.
func watching(t *testing.T, watch func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan bool)
	here, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		runtime.LockOSThread() // ends with the thread
		if err := unix.Setns(here, unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		close(ready)
		ended <- watch(ctx)
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	time.Sleep(200 * time.Millisecond) // until the kernel tells it
}

// TestWatch: whatever somebody takes out of virtd's table is there again within a second, and virtd's own changes cause nothing.
func TestWatch(t *testing.T) {
	c := inNamespace(t)
	mine := Tables("")
	repaired := make(chan error, 10)
	watching(t, func(ctx context.Context) error {
		return mine.Watch(ctx, nftables.TableFamilyINet, func() {
			if whole, err := mine.Applied(networks); err != nil || !whole {
				repaired <- errors.Join(err, mine.Apply(networks))
			}
		})
	})
	for range 3 {
		if err := mine.Apply(networks); err != nil {
			t.Fatal(err)
		}
	}
	table := mine.of(nftables.TableFamilyINet)
	for name, remove := range map[string]func(){
		"nothing":            func() {},
		"all tables":         c.FlushRuleset,
		"the rules, no more": func() { c.FlushTable(table) },
		"one chain's rules":  func() { c.FlushChain(&nftables.Chain{Name: chainNAT, Table: table}) },
		"the table":          func() { c.DelTable(table) },
	} {
		remove()
		if err := c.Flush(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "nothing" {
			select {
			case <-repaired:
				t.Error("virtd's own change counts as a loss")
			case <-time.After(2 * settleTime):
			}
			continue
		}
		select {
		case err := <-repaired:
			if whole, werr := mine.Applied(networks); err != nil || werr != nil || !whole {
				t.Errorf("%s: after the repair %v, %v, %v", name, whole, err, werr)
			}
		case <-time.After(time.Second + settleTime):
			t.Errorf("%s: no repair", name)
		}
	}
}

// TestTwoInstances: the tables of another virtd on the host stay as they are, whatever this one does.
func TestTwoInstances(t *testing.T) {
	inNamespace(t)
	one, two := Tables(""), TablesOf("/tmp/other")
	for _, apply := range []error{one.Apply(networks[:1]), two.Apply(networks[1:]), one.Apply(networks[:2]), one.Apply(nil)} {
		if apply != nil {
			t.Fatal(apply)
		}
	}
	if whole, err := two.Applied(networks[1:]); err != nil || !whole {
		t.Errorf("the other's rules are whole: %v, %v", whole, err)
	}
	if whole, err := one.Applied(nil); err != nil || !whole {
		t.Errorf("rules are left: %v", err)
	}
	if found, err := Obstacles(); err != nil || len(found) != 0 {
		t.Errorf("one virtd is in the way of the other: %v, %v", found, err)
	}
	filter, err := readFilter("<filterref filter='clean-traffic'><parameter name='IP' value='10.9.0.5'/></filterref>")
	if err != nil {
		t.Fatal(err)
	}
	first, second := &Guests{}, &Guests{Tables: two}
	if err := first.Set("vnet0", filter); err != nil {
		t.Fatal(err)
	}
	if err := second.Restore(); err != nil { // as it does when it begins
		t.Fatal(err)
	}
	if err := second.Set("vnet1", filter); err != nil {
		t.Fatal(err)
	}
	if err := second.Remove("vnet1"); err != nil {
		t.Fatal(err)
	}
	if made, err := first.Repair(); err != nil || made != 0 {
		t.Errorf("the other virtd took %d filters away, %v", made, err)
	}
}

// TestObstacles: chains of others that drop by default are found, with the commands that help.
func TestObstacles(t *testing.T) {
	c := inNamespace(t)
	drop := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	c.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	c.AddChain(&nftables.Chain{Name: "OUTPUT", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	c.AddChain(&nftables.Chain{Name: "INPUT", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	accept := nftables.ChainPolicyAccept
	firewalld := c.AddTable(&nftables.Table{Name: "firewalld", Family: nftables.TableFamilyINet})
	for name, hook := range map[string]*nftables.ChainHook{"filter_FORWARD": nftables.ChainHookForward, "filter_OUTPUT": nftables.ChainHookOutput} {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: firewalld, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &accept})
		c.AddRule(&nftables.Rule{Table: firewalld, Chain: ch, Exprs: inChain("").established().verdict("accept").exprs})
		c.AddRule(&nftables.Rule{Table: firewalld, Chain: ch, Exprs: inChain("").reject().exprs})
	}
	harmless := c.AddChain(&nftables.Chain{Name: "some", Table: firewalld, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	c.AddRule(&nftables.Rule{Table: firewalld, Chain: harmless, Exprs: inChain("").in("eth7").verdict("drop").exprs})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := Tables("").Apply(networks); err != nil {
		t.Fatal(err)
	}
	found, err := Obstacles()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(found, func(a, b Obstacle) int { return strings.Compare(a.Table+a.Chain, b.Table+b.Chain) })
	want := []Obstacle{{"inet firewalld", "filter_FORWARD", "forward"}, {"ip filter", "FORWARD", "forward"}, {"ip filter", "INPUT", "input"}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	for i, says := range []string{"--zone=trusted --add-interface=virbr0", `nft insert rule ip filter FORWARD oifname "virbr*" accept`,
		`nft insert rule ip filter INPUT iifname "virbr*" udp dport { 53, 67, 547 } accept`} {
		if !strings.Contains(found[i].String(), says) {
			t.Errorf("advice without %q: %s", says, found[i])
		}
	}
}
