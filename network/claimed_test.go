package network_test

import (
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A guest that has the link-local address of the bridge before the bridge has it does not take it away, so that others get
// advertisements, which come from that address.
func TestBridgeAddressClaimed(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	n, err := openManager(t, host, dir).Create(realNAT)
	ok(t, err)
	t.Cleanup(func() { ok(t, n.Destroy()) })
	tbr0, err := netlink.LinkByName("tbr0")
	ok(t, err)
	mac := tbr0.Attrs().HardwareAddr
	claimed := net.IP{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]} // RFC 4291, appendix A

	thief, guest := newGuest(t, "thief0", "52:54:00:00:00:01"), newGuest(t, "guest0", "52:54:00:00:00:02")
	thief.run(t, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: claimed, Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD})
	})
	ok(t, host.Plug("tbr0", "thief0", false))
	var flags, found = 0, false
	for end := time.Now().Add(10 * time.Second); !found && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		list, err := netlink.AddrList(tbr0, netlink.FAMILY_V6)
		ok(t, err)
		for _, a := range list {
			if a.IP.Equal(claimed) && a.Flags&unix.IFA_F_TENTATIVE == 0 || a.Flags&unix.IFA_F_DADFAILED != 0 {
				flags, found = a.Flags, true
			}
		}
	}
	if !found || flags&unix.IFA_F_DADFAILED != 0 {
		t.Errorf("the bridge's address %s: there %v, flags %#x", claimed, found, flags)
	}
	ok(t, host.Plug("tbr0", "guest0", false))
	guest.run(t, func() error { return waitSLAAC("fd99:") })
}
