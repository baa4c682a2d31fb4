package bridge

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestNeighbours(t *testing.T) {
	h := inNamespace(t)
	br, err := netlink.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	other := net.HardwareAddr{0x52, 0x54, 0, 9, 9, 9}
	for _, n := range []struct {
		ip    string
		mac   net.HardwareAddr
		state int
	}{
		{"10.9.0.3", guestMAC, netlink.NUD_STALE}, {"10.9.0.2", guestMAC, netlink.NUD_REACHABLE},
		{"fe80::2", guestMAC, netlink.NUD_STALE}, {"10.9.0.4", other, netlink.NUD_REACHABLE},
	} {
		err := netlink.NeighAdd(&netlink.Neigh{LinkIndex: br.Attrs().Index, State: n.state, IP: net.ParseIP(n.ip), HardwareAddr: n.mac})
		if err != nil {
			t.Fatalf("add %s: %v", n.ip, err)
		}
	}
	got, err := h.Neighbours(guestMAC)
	want := []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("10.9.0.3"), netip.MustParseAddr("fe80::2")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if got, err := h.Neighbours(net.HardwareAddr{1, 2, 3, 4, 5, 6}); err != nil || len(got) != 0 {
		t.Errorf("of nobody: %v, %v", got, err)
	}
}
