package bridge

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/network/portconf"
	"virtd/virterr"
)

// queues tells how a link's traffic is limited, a line for each class, filter and policer.
func queues(t *testing.T, name string) []string {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		switch q := q.(type) {
		case *netlink.Htb:
			out = append(out, fmt.Sprintf("htb %s default %d", netlink.HandleStr(q.Handle), q.Defcls))
		case *netlink.Ingress:
			out = append(out, "ingress")
		}
	}
	classes, err := netlink.ClassList(l, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		h, ok := c.(*netlink.HtbClass)
		if !ok {
			continue
		}
		out = append(out, fmt.Sprintf("class %s below %s rate %d ceil %d burst %d", netlink.HandleStr(h.Handle), netlink.HandleStr(h.Parent),
			h.Rate/1000, h.Ceil/1000, netlink.Xmitsize(h.Rate, h.Buffer)>>10))
	}
	for _, parent := range []uint32{rootHandle, ingressHandle} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Fatal(err)
		}
		for _, f := range filters {
			u, ok := f.(*netlink.U32)
			if !ok || u.Sel == nil {
				continue
			}
			if u.Police != nil {
				out = append(out, fmt.Sprintf("police rate %d mtu %d", u.Police.Rate/1000, u.Police.Mtu))
				continue
			}
			text := "to " + netlink.HandleStr(u.ClassId)
			for _, k := range u.Sel.Keys {
				text += fmt.Sprintf(" %08x/%08x@%d", k.Val, k.Mask, k.Off)
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

// TestInboundBandwidth reads back what the kernel has: limits set, changed, and taken away with nothing left.
func TestInboundBandwidth(t *testing.T) {
	h := inNamespace(t)
	tap := openTap(t, h, TapConfig{Bridge: "br0", MAC: guestMAC, Owner: -1, Bandwidth: portconf.Bandwidth{In: portconf.Rate{Average: 1000, Peak: 5000, Burst: 1024}}})
	checkQueues(t, tap.Name, "class 1:1 below root rate 1000 ceil 5000 burst 1024", "htb 1:0 default 1")
	for range 2 {
		if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{In: portconf.Rate{Average: 200, Burst: 8}}); err != nil {
			t.Fatal(err)
		}
		checkQueues(t, tap.Name, "class 1:1 below root rate 200 ceil 200 burst 8", "htb 1:0 default 1")
	}
	for range 2 {
		if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{}); err != nil {
			t.Fatal(err)
		}
		checkQueues(t, tap.Name)
	}
	for _, big := range []uint64{1, portconf.MaxRate} { // the ends of what can be asked for
		if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{In: portconf.Rate{Average: big, Peak: portconf.MaxRate, Burst: portconf.MaxRate}}); err != nil {
			t.Errorf("average %d: %v", big, err)
		}
	}
	if err := h.SetBandwidth("vnet99", portconf.Bandwidth{}); !errors.Is(err, unix.ENODEV) || !virterr.Is(err, virterr.SystemError) {
		t.Errorf("missing link: %v", err)
	}
}

// TestFloors: a network's bridge has a class for the whole, one for the rest, and one for each floor with its filter.
func TestFloors(t *testing.T) {
	h := inNamespace(t)
	b := portconf.Bandwidth{In: portconf.Rate{Average: 1000, Peak: 2000}}
	set := func(floors ...Floor) []string {
		t.Helper()
		if err := h.ShapeBridge("br0", b, floors); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, line := range queues(t, "br0") {
			line, _, _ = strings.Cut(line, " burst")
			out = append(out, line)
		}
		return out
	}
	whole, root := "class 1:1 below root rate 1000 ceil 2000", "htb 1:0 default 2"
	check := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	check(set(), whole, "class 1:2 below 1:1 rate 1000 ceil 2000", root)
	one := Floor{Class: 3, MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}, Rate: 300}
	two := Floor{Class: 4, MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 4}, Rate: 200}
	for range 2 {
		check(set(one, two), whole, "class 1:2 below 1:1 rate 500 ceil 2000", "class 1:3 below 1:1 rate 300 ceil 2000", "class 1:4 below 1:1 rate 200 ceil 2000", root,
			"to 1:3 00005254/0000ffff@-16 00010203/ffffffff@-12", "to 1:4 00005254/0000ffff@-16 00010204/ffffffff@-12")
	}
	check(set(two), whole, "class 1:2 below 1:1 rate 800 ceil 2000", "class 1:4 below 1:1 rate 200 ceil 2000", root, "to 1:4 00005254/0000ffff@-16 00010204/ffffffff@-12")
	b = portconf.Bandwidth{}
	check(set())
}

// needPolice skips a test on a kernel without act_police, which the lab's has: TestLabBandwidth there.
func needPolice(t *testing.T, h *Host) {
	t.Helper()
	tap := openTap(t, h, TapConfig{Owner: -1})
	defer tap.Close()
	if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{Out: portconf.Rate{Average: 1}}); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		if left := queues(t, tap.Name); len(left) != 0 || !strings.Contains(err.Error(), "act_police") {
			t.Errorf("a limit that cannot be leaves %v: %v", left, err)
		}
		t.Skipf("needs the lab, or a kernel with act_police: %v", err)
	}
}

func TestOutboundBandwidth(t *testing.T) { outboundBandwidth(t) }

func outboundBandwidth(t *testing.T) {
	h := inNamespace(t)
	needPolice(t, h)
	tap := openTap(t, h, TapConfig{Bridge: "br0", Owner: -1, Bandwidth: portconf.Bandwidth{Out: portconf.Rate{Average: 128, Burst: 256}}})
	want := []string{"ingress", "police rate 128 mtu 65536"}
	if got := queues(t, tap.Name); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{Out: portconf.Rate{Average: 64}, In: portconf.Rate{Average: 32}}); err != nil {
		t.Fatal(err)
	}
	if got := queues(t, tap.Name); !slices.Contains(got, "police rate 64 mtu 65536") || len(got) != 4 {
		t.Errorf("changed: %v", got)
	}
	if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{}); err != nil {
		t.Fatal(err)
	}
	if got := queues(t, tap.Name); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// checkQueues compares how a link's traffic is limited.
func checkQueues(t *testing.T, name string, want ...string) {
	t.Helper()
	if got := queues(t, name); !slices.Equal(got, want) {
		t.Errorf("%s has\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestMacvtapBandwidth: the host's link is the guest's own end, so that what the guest sends waits in line there; on a tap that is
// what comes to it. Nothing is done to the link below, and nothing stays when the rates are taken away.
func TestMacvtapBandwidth(t *testing.T) {
	h := inMacvtapNamespace(t)
	tap := openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapBridge, MAC: guestMAC,
		Bandwidth: portconf.Bandwidth{Out: portconf.Rate{Average: 128, Peak: 200, Burst: 256}}})
	checkQueues(t, tap.Name, "class 1:1 below root rate 128 ceil 200 burst 256", "htb 1:0 default 1")
	checkQueues(t, "eth0")
	if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{Out: portconf.Rate{Average: 32, Burst: 8}}); err != nil {
		t.Fatal(err)
	}
	checkQueues(t, tap.Name, "class 1:1 below root rate 32 ceil 32 burst 8", "htb 1:0 default 1")
	if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{}); err != nil {
		t.Fatal(err)
	}
	checkQueues(t, tap.Name)
}

func TestMacvtapInboundBandwidth(t *testing.T) { macvtapInboundBandwidth(t) }

// macvtapInboundBandwidth: what comes to the guest is policed, whether it asks for that at first or later.
func macvtapInboundBandwidth(t *testing.T) {
	h := inMacvtapNamespace(t)
	needPolice(t, h)
	tap := openMacvtap(t, h, MacvtapConfig{Parent: "eth0", Mode: MacvtapVEPA, MAC: guestMAC,
		Bandwidth: portconf.Bandwidth{In: portconf.Rate{Average: 128, Burst: 256}}})
	checkQueues(t, tap.Name, "ingress", "police rate 128 mtu 65536")
	if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{In: portconf.Rate{Average: 64}, Out: portconf.Rate{Average: 32, Burst: 8}}); err != nil {
		t.Fatal(err)
	}
	checkQueues(t, tap.Name, "class 1:1 below root rate 32 ceil 32 burst 8", "htb 1:0 default 1", "ingress", "police rate 64 mtu 65536")
	if err := h.SetBandwidth(tap.Name, portconf.Bandwidth{}); err != nil {
		t.Fatal(err)
	}
	checkQueues(t, tap.Name)
}
