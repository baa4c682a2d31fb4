package bridge

import (
	"bytes"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Neighbours returns the addresses that this host's neighbour tables (ARP and NDP) have for a link-layer address, in order.
// Entries that the kernel tried and failed to resolve do not count.
func (h *Host) Neighbours(mac net.HardwareAddr) ([]netip.Addr, error) {
	table, err := netlink.NeighList(0, unix.AF_UNSPEC)
	if err != nil {
		return nil, virterr.New(virterr.SystemError, "Unable to read the neighbour tables: %w", errno(err))
	}
	var out []netip.Addr
	for _, n := range table {
		if n.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) != 0 || !bytes.Equal(n.HardwareAddr, mac) {
			continue
		}
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}
