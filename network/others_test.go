package network_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"virtd/network"
	"virtd/network/firewall"
	"virtd/network/networktest"
)

// TestOthers: the packet filters of others know the active networks, also those of the virtd before, and no others.
func TestOthers(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	m := openManager(t, host, dir)
	n, err := m.Create(natXML)
	ok(t, err)
	same(t, fmt.Sprint(host.Opened()), "[nat]")
	m.Close()
	ok(t, host.OpenOthers(nil))
	m = openManager(t, host, dir)
	same(t, fmt.Sprint(host.Opened()), "[nat]")
	ok(t, host.OpenOthers(nil))
	m.OpenOthers()
	same(t, fmt.Sprint(host.Opened()), "[nat]")
	n, err = m.LookupByName("nat")
	ok(t, err)
	ok(t, n.Destroy())
	same(t, fmt.Sprint(host.Opened()), "[]")
	m.Close()
	ok(t, host.OpenOthers([]network.Spec{{Name: "stale"}}))
	openManager(t, host, dir)
	same(t, fmt.Sprint(host.Opened()), "[]")
}

// likeDocker drops what is forwarded as Docker does on nf_tables, until the test ends. user is its chain for rules of others.
func likeDocker(t *testing.T) (user *nftables.Chain) {
	t.Helper()
	c, err := nftables.New()
	ok(t, err)
	table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	user = c.AddChain(&nftables.Chain{Name: "DOCKER-USER", Table: table})
	drop := nftables.ChainPolicyDrop
	forward := c.AddChain(&nftables.Chain{
		Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: user, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictReturn}}})
	c.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictJump, Chain: user.Name}}})
	ok(t, c.Flush())
	t.Cleanup(func() { c.DelTable(table); ok(t, c.Flush()) })
	return user
}

// inUser shows the rules of virtds in Docker's chain, and how many others have.
func inUser(t *testing.T, user *nftables.Chain) string {
	t.Helper()
	c, err := nftables.New()
	ok(t, err)
	list, err := c.GetRules(user.Table, user)
	ok(t, err)
	var out []string
	others := 0
	for _, r := range list {
		if says, mine := userdata.GetString(r.UserData, userdata.TypeComment); mine {
			out = append(out, says)
		} else {
			others++
		}
	}
	return fmt.Sprintf("%s + %d", strings.Join(out, ", "), others)
}

// TestRealOthers: Docker's rules drop what a guest sends to the world, unless virtd shall open them; then it passes, also after
// somebody flushed the rules for it, until the network stops or the next virtd shall not do that.
func TestRealOthers(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	user := likeDocker(t)
	m := openManager(t, host, dir)
	n, err := m.Create(fmt.Sprintf(servedXML, "docked", "<forward mode='nat'/>", "tbrdock", 96))
	ok(t, err)
	stop := func() {
		if n.Active() {
			ok(t, n.Destroy())
		}
	}
	t.Cleanup(stop)
	one := newGuest(t, "docked1", "52:54:00:00:96:01")
	ok(t, host.Plug("tbrdock", "docked1", false))
	one.lease(t, "docked")
	tellWho(t, worldBehind(t), "192.0.2.2:80")
	reaches := func(what string, want bool) {
		t.Helper()
		patience := unanswered
		if want {
			patience = answered
		}
		if from, err := one.tcp("192.0.2.2:80", patience); (err == nil && from == "192.0.2.1") != want {
			t.Errorf("%s: the world sees the guest as %q, %v", what, from, err)
		}
	}
	next := func(open bool) { // virtd
		t.Helper()
		m.Close()
		host.Services.Close()
		host = localHost(t, dir)
		host.Open = open
		m = openManager(t, host, dir)
		n, err = m.LookupByName("docked")
		ok(t, err)
		t.Cleanup(stop) // before what this one needs for it is closed
	}
	const rules = "virtd: iifname tbrdock accept, virtd: oifname tbrdock accept"
	reaches("closed", false)
	same(t, inUser(t, user), " + 1")

	_, err = host.Tables.Open([]string{"stale0"}) // as of a virtd that was killed
	ok(t, err)
	next(true)
	same(t, inUser(t, user), rules+" + 1")
	reaches("open", true)

	flushed := make(chan bool, 100)
	watchOthers(t, func() { m.OpenOthers(); flushed <- true })
	c, err := nftables.New()
	ok(t, err)
	c.FlushChain(user)
	ok(t, c.Flush())
	select {
	case <-flushed:
	case <-time.After(30 * time.Second):
		t.Fatal("the flush is not noticed")
	}
	same(t, inUser(t, user), rules+" + 0")
	reaches("flushed", true)

	ok(t, n.Destroy())
	same(t, inUser(t, user), " + 0")
	n, err = m.Create(fmt.Sprintf(servedXML, "docked", "<forward mode='nat'/>", "tbrdock", 96))
	ok(t, err)
	same(t, inUser(t, user), rules+" + 0")
}

// TestRealOthersOff: a virtd that shall not open others' filters closes what the last one opened.
func TestRealOthersOff(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	host.Open = true
	user := likeDocker(t)
	m := openManager(t, host, dir)
	n, err := m.Create("<network><name>shut</name><forward/><bridge name='tbrshut'/><ip address='10.95.0.1' prefix='24'/></network>")
	ok(t, err)
	same(t, inUser(t, user), "virtd: iifname tbrshut accept, virtd: oifname tbrshut accept + 1")
	m.Close()
	host.Open = false
	m = openManager(t, host, dir)
	same(t, inUser(t, user), " + 1")
	n, err = m.LookupByName("shut")
	ok(t, err)
	ok(t, n.Destroy())
}

// watchOthers watches the packet filters of others until the test ends, and returns once it does.
func watchOthers(t *testing.T, changed func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- firewall.WatchOthers(ctx, changed) }()
	t.Cleanup(func() { cancel(); ok(t, <-ended) })
	time.Sleep(200 * time.Millisecond) // until the kernel tells it
}
