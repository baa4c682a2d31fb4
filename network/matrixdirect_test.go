package network_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"virtd/network/bridge"
)

// inSwitch makes the machine a switch of its eth0 and further links, which sends frames also back where they came from
// (a reflective relay, IEEE 802.1Qbg).
func (g *guest) inSwitch(t *testing.T, reflects bool, links ...string) {
	t.Helper()
	g.run(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		br := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		for _, name := range links {
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = errors.Join(netlink.LinkSetMaster(l, br), netlink.LinkSetHairpin(l, reflects), netlink.LinkSetUp(l))
			}
			if err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(br)
	})
}

// TestMatrixDirect: for each mode of a network on what the host has already, a bridge or links, who reaches whom.
func TestMatrixDirect(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	for _, c := range []struct {
		name, forward string
		reflects      bool
		rows          string
	}{
		{"bridge", "<forward mode='bridge'/><bridge name='tbrlan'/>", false, `
			one > two: itself itself
			one > world: itself itself
			world > two: itself itself
			one > host: itself itself
			host > one: itself itself`},
		{"isolated ports", "<forward mode='bridge'/><bridge name='tbrlan'/><port isolated='yes'/>", false, `
			one > two: - -
			one > world: itself itself
			world > two: itself itself
			one > host: itself itself`},
		{"macvtap bridge", "<forward mode='bridge'><interface dev='lan0'/></forward>", false, `
			one > two: itself itself
			one > world: itself itself
			world > two: itself itself
			one > host: - -
			host > one: - -`},
		{"vepa", "<forward mode='vepa'><interface dev='lan0'/></forward>", false, `
			one > two: - -
			one > world: itself itself
			world > two: itself itself
			one > host: - -`},
		{"vepa at a switch that reflects", "<forward mode='vepa'><interface dev='lan0'/></forward>", true, `
			one > two: itself itself
			one > world: itself itself`},
		{"private", "<forward mode='private'><interface dev='lan0'/></forward>", false, `
			one > two: - -
			one > world: itself itself
			world > two: itself itself
			one > host: - -`},
		{"private at a switch that reflects", "<forward mode='private'><interface dev='lan0'/></forward>", true, `
			one > two: - -
			one > world: itself itself`},
		{"passthrough", "<forward mode='passthrough'><interface dev='lan0'/><interface dev='lan1'/></forward>", false, `
			one > two: itself itself
			one > world: itself itself
			world > two: itself itself`},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := newMatrix(t)
			world := newGuest(t, "lan0", "52:54:00:00:86:99")
			t.Cleanup(func() { dropLink(t, "lan0"); dropLink(t, "tbrlan") })
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "lan1"
			ok(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth1", PeerNamespace: netlink.NsFd(world.fd)}))
			t.Cleanup(func() { dropLink(t, "lan1") })
			second, err := netlink.LinkByName("lan1")
			ok(t, err)
			ok(t, netlink.LinkSetUp(second))
			world.inSwitch(t, c.reflects, "eth0", "eth1")
			world.run(t, func() error { return addAddresses("br0", "10.86.0.99/24", "fd86::99/64") })
			mine := "lan0"
			if strings.Contains(c.forward, "tbrlan") {
				ok(t, host.Links.AddBridge(bridge.BridgeConfig{Name: "tbrlan"}))
				ok(t, host.Links.Attach("tbrlan", "lan0"))
				mine = "tbrlan"
			}
			if c.name != "passthrough" { // which leaves the host nothing
				setAddresses(t, mine, "10.86.0.1/24", "fd86::1/64")
			}
			onHost := addrs("10.86.0.1", "fd86::1")
			all.add(t, "world", world, addrs("10.86.0.99", "fd86::99"), onHost)
			n, err := m.Create("<network><name>lan</name>" + c.forward + "</network>")
			ok(t, err)
			t.Cleanup(func() { ok(t, n.Destroy()) })
			for i, name := range []string{"one", "two"} {
				g := plug(t, m, host, "lan", name, fmt.Sprintf("52:54:00:00:86:%02x", i))
				g.static(t, fmt.Sprintf("10.86.0.1%d/24", i), fmt.Sprintf("fd86::1%d/64", i))
				all.add(t, name, g, addrs(fmt.Sprintf("10.86.0.1%d", i), fmt.Sprintf("fd86::1%d", i)), onHost)
			}
			all.check(t, strings.TrimSpace(c.rows))
		})
	}
}
