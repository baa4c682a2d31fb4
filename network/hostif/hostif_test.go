package hostif

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace moves the test to a network namespace of its own, which ends with the test's thread.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs the right to make a network namespace (CAP_SYS_ADMIN)")
		}
		t.Fatalf("new network namespace: %v", err)
	}
}

func add(t *testing.T, l netlink.Link, up bool) {
	t.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatalf("add %s: %v", l.Attrs().Name, err)
	}
	if up {
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
}

func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// TestList lists what the kernel has: a pair of cables, one end in a bridge, with addresses, and no tap.
func TestList(t *testing.T) {
	inNamespace(t)
	bridge := &netlink.Bridge{LinkAttrs: attrs("br0")}
	add(t, bridge, true)
	add(t, &netlink.Veth{LinkAttrs: attrs("eth0"), PeerName: "eth1"}, true)
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMaster(eth0, bridge); err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(bridge, a); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs("vnet0"), Mode: netlink.TUNTAP_MODE_TAP}); err != nil {
		t.Logf("without a tap: %v", err)
	}
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	if want := []string{"br0", "eth0", "eth1", "lo"}; !slices.Equal(names, want) {
		t.Fatalf("interfaces %v, want %v", names, want)
	}
	if xml := list[0].XML(true); !strings.Contains(xml, "<ip address='192.0.2.1' prefix='24'/>") || !strings.Contains(xml, "<interface type='ethernet' name='eth0'>") {
		t.Errorf("bridge:\n%s", xml)
	}
	if list[2].Active {
		t.Error("an interface that is down is active")
	}
	if list[3].MAC != "00:00:00:00:00:00" {
		t.Errorf("the loopback's address is %s", list[3].MAC)
	}
}
