package network_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/uuid"

	"virtd/network"
	"virtd/network/networktest"
)

// TestRepair: what somebody took of active networks is made again, as it was, and nothing else is touched.
func TestRepair(t *testing.T) {
	host := &networktest.Fake{}
	m := openManager(t, host, t.TempDir())
	n, err := m.Create(natXML)
	ok(t, err)
	p, err := m.Connect(network.Request{Network: "nat", MAC: "52:54:00:00:00:01", Owner: network.Owner{Name: "d", UUID: uuid.New()}})
	ok(t, err)
	ok(t, m.Connected(p.UUID, "vnet0"))
	ok(t, host.Plug(p.Bridge, "vnet0", false)) // as the driver does
	whole := host.State()
	touched := 0
	host.Fail = func(method, _ string) error {
		if slices.Contains([]string{"Filter", "Up", "Serve"}, method) {
			touched++
		}
		return nil
	}
	ok(t, errors.Join(m.Repair(), m.RepairBridges()))
	if touched != 0 {
		t.Errorf("%d changes of a host on which everything is there", touched)
	}
	host.LoseFilter()
	ok(t, m.Repair())
	same(t, host.State(), whole)
	bridge, err := n.Bridge()
	ok(t, err)
	host.LoseLink(bridge)
	ok(t, m.RepairBridges())
	same(t, host.State(), whole)

	host.LoseLink(bridge)
	host.Fail = func(method, _ string) error {
		if method == "Up" {
			return errors.New("no bridges today")
		}
		return nil
	}
	fails(t, m.RepairBridges(), "operation failed: the bridge 'virbr0' of network 'nat' was removed and cannot be made again; stop and start the network: no bridges today")
	host.Fail = nil
	ok(t, m.RepairBridges())
	same(t, host.State(), whole)
}

// TestRealRepair: guests reach each other and the world again after somebody removed their bridge, or the rules of their network.
func TestRealRepair(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	all := newMatrix(t)
	all.outside(t)
	n, err := m.Create(fmt.Sprintf(servedXML, "mended", "<forward/>", "tbrmend", 97))
	ok(t, err)
	t.Cleanup(func() { ok(t, n.Destroy()) })
	one := plug(t, m, host, "mended", "one", "52:54:00:00:97:01")
	at := served(t, map[string]*guest{"one": one})["one"]
	all.add(t, "one", one, at, addrs("10.97.0.1", "fd97::1"))
	const rows = "one > world: host itself\nworld > one: - itself\none > host: itself itself\n"
	all.check(t, rows)
	c, err := nftables.New()
	ok(t, err)
	c.FlushTable(&nftables.Table{Name: host.Tables.Name(), Family: nftables.TableFamilyINet})
	ok(t, c.Flush())
	ok(t, m.Repair())
	dropLink(t, "tbrmend")
	ok(t, m.RepairBridges())
	all.check(t, rows)
	again := served(t, map[string]*guest{"one": one})["one"]
	if again != at {
		t.Errorf("the guest had %v, and with the new bridge has %v", at, again)
	}
}

// TestPingThroughRestart: a guest loses no packet while virtd is killed and the next one begins.
func TestPingThroughRestart(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	all := newMatrix(t)
	all.outside(t)
	_, err := m.Create(fmt.Sprintf(servedXML, "kept", "<forward/>", "tbrkept", 98))
	ok(t, err)
	one := plug(t, m, host, "kept", "one", "52:54:00:00:98:01")
	served(t, map[string]*guest{"one": one})
	world := netip.MustParseAddr("192.0.2.2")
	if o := <-one.async(func() (string, error) { return ask("ping", world, 10*time.Second) }); o.err != nil {
		t.Fatal(o.err)
	}
	stop := make(chan bool)
	var answered atomic.Int64
	lost := one.async(func() (string, error) { return count(world, &answered, stop) })
	for range 3 {
		for before, end := answered.Load(), time.Now().Add(10*time.Second); answered.Load() == before && time.Now().Before(end); {
			time.Sleep(time.Millisecond) // a restart can be over before a request was sent
		}
		host.Services.Close() // what a killed virtd leaves is what its successor finds: nothing is ended in order
		host = localHost(t, dir)
		m = openManager(t, host, dir)
	}
	close(stop)
	if o := <-lost; o.err != nil || answered.Load() < 3 {
		t.Errorf("%d echo requests were answered; %v", answered.Load(), o.err)
	}
	n, err := m.LookupByName("kept")
	ok(t, err)
	ok(t, n.Destroy())
}

// count sends an echo request every 20 ms until stop, each once, and counts those that were answered; one that was not is an error.
func count(to netip.Addr, answered *atomic.Int64, stop <-chan bool) (string, error) {
	for {
		select {
		case <-stop:
			return "", nil
		case <-time.After(20 * time.Millisecond):
		}
		if err := pingOnce(to, 10*time.Second); err != nil {
			return "", fmt.Errorf("after %d: %w", answered.Load(), err)
		}
		answered.Add(1)
	}
}
