package bridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"virtd/lab/labtest"
	"virtd/network/portconf"
	"virtd/virterr"
)

// TestLabOutboundBandwidth is TestOutboundBandwidth, and the same of macvtaps, where the kernel has what it needs.
func TestLabOutboundBandwidth(t *testing.T) {
	labtest.Need(t, labtest.Tun)
	t.Run("tap", outboundBandwidth)
	t.Run("macvtap", macvtapInboundBandwidth)
}

// frame is a broadcast that tells who sent it, with a VLAN tag unless that is 0.
func frame(from byte, tag uint16) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, from}
	if tag != 0 {
		b = binary.BigEndian.AppendUint16(append(b, 0x81, 0x00), tag)
	}
	return append(append(b, 0x88, 0xb5, from), make([]byte, 50)...) // an experimental EtherType, IEEE 802
}

func send(t *testing.T, tap *Tap, frame []byte) {
	t.Helper()
	if _, err := unix.Write(int(tap.Files[0].Fd()), append(make([]byte, VnetHeaderSize), frame...)); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next frame of the experimental EtherType that comes out of a tap, nil when none comes.
func receive(t *testing.T, tap *Tap, wait time.Duration) []byte {
	t.Helper()
	buf := make([]byte, 2048)
	for end := time.Now().Add(wait); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(tap.Files[0].Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(wait.Milliseconds())); errors.Is(err, unix.EINTR) || n == 0 {
			continue
		}
		n, err := unix.Read(int(tap.Files[0].Fd()), buf)
		if err != nil {
			t.Fatal(err)
		}
		if got := buf[VnetHeaderSize:n]; bytes.Contains(got[:20], []byte{0x88, 0xb5}) {
			return bytes.Clone(got)
		}
	}
	return nil
}

// filtering makes a bridge that filters VLANs.
func filtering(t *testing.T, h *Host, name string) {
	t.Helper()
	attrs, yes := netlink.NewLinkAttrs(), true
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, VlanFiltering: &yes}); err != nil {
		t.Fatal(err)
	}
	if err := h.SetUp(name, true); err != nil {
		t.Fatal(err)
	}
}

// TestLabVLAN: guests reach those of their VLAN and nobody else, trunks carry tags, and a change takes effect on the spot.
func TestLabVLAN(t *testing.T) {
	labtest.Need(t, labtest.Tun)
	h := inNamespace(t)
	filtering(t, h, "brv")
	guest := func(n byte, v portconf.VLAN) *Tap {
		return openTap(t, h, TapConfig{Bridge: "brv", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, n}, Owner: -1, VLAN: v})
	}
	five, alsoFive, six := guest(1, portconf.VLAN{Tags: []uint16{5}}), guest(2, portconf.VLAN{Tags: []uint16{5}}), guest(3, portconf.VLAN{Tags: []uint16{6}})
	trunk := guest(4, portconf.VLAN{Tags: []uint16{5, 6}, Trunk: true, Native: 6})
	plain := guest(5, portconf.VLAN{})
	const soon, never = 5 * time.Second, 300 * time.Millisecond
	expect := func(what string, tap *Tap, want []byte) {
		t.Helper()
		wait := soon
		if want == nil {
			wait = never
		}
		if got := receive(t, tap, wait); !bytes.Equal(got, want) {
			t.Errorf("%s got % x, want % x", what, got, want)
		}
	}
	send(t, five, frame(1, 0))
	expect("the same VLAN", alsoFive, frame(1, 0))
	expect("the trunk", trunk, frame(1, 5))
	expect("another VLAN", six, nil)
	expect("a port without tags", plain, nil)
	send(t, trunk, frame(4, 0))
	expect("the native VLAN", six, frame(4, 0))
	send(t, trunk, frame(4, 5))
	expect("the tagged VLAN", five, frame(4, 0))
	expect("its other port", alsoFive, frame(4, 0))
	expect("the native VLAN of a tagged frame", six, nil)
	send(t, five, frame(1, 6)) // a guest that hops to another VLAN by a tag of its own
	expect("the VLAN hopped to", six, nil)
	expect("the hopper's own", alsoFive, nil)
	if err := h.SetVLAN("brv", six.Name, portconf.VLAN{Tags: []uint16{5}}); err != nil {
		t.Fatal(err)
	}
	send(t, five, frame(1, 0))
	expect("the one that moved", six, frame(1, 0))
	if err := h.SetVLAN("brv", six.Name, portconf.VLAN{}); err != nil {
		t.Fatal(err)
	}
	send(t, plain, frame(5, 0))
	expect("the one without a tag again", six, frame(5, 0))
}

// TestVLANNeedsFiltering: tags on a bridge that does not look at them are refused, and nothing is left behind.
func TestVLANNeedsFiltering(t *testing.T) {
	h := inNamespace(t)
	before, err := h.List()
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.OpenTap(TapConfig{Bridge: "br0", Owner: -1, VLAN: portconf.VLAN{Tags: []uint16{5}}})
	if !virterr.Is(err, virterr.ConfigUnsupported) || !bytes.Contains([]byte(err.Error()), []byte("ip link set br0 type bridge vlan_filtering 1")) {
		t.Errorf("%v", err)
	}
	if after, err := h.List(); err != nil || len(after) != len(before) {
		t.Errorf("left behind: %v, %v", after, err)
	}
}
