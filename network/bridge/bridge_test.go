package bridge

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// inNamespace moves the test to a network namespace of its own, which ends with the test: its goroutine keeps the thread
// locked, so the thread dies with it.
func inNamespace(t *testing.T) *Host {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs the right to make a network namespace (CAP_SYS_ADMIN)")
		}
		t.Fatalf("new network namespace: %v", err)
	}
	if f, err := os.OpenFile(tunDevice, os.O_RDWR, 0); err != nil {
		t.Skipf("needs %s: %v", tunDevice, err)
	} else {
		f.Close()
	}
	h := &Host{}
	if err := h.AddBridge(BridgeConfig{Name: "br0", MTU: 1400}); err != nil {
		t.Fatal(err)
	}
	return h
}

func openTap(t *testing.T, h *Host, c TapConfig) *Tap {
	t.Helper()
	tap, err := h.OpenTap(c)
	if err != nil {
		t.Fatalf("OpenTap(%+v): %v", c, err)
	}
	t.Cleanup(tap.Close)
	return tap
}

var guestMAC = net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}

func TestTapOnBridge(t *testing.T) {
	h := inNamespace(t)
	for i, queues := range []int{1, 4} {
		tap := openTap(t, h, TapConfig{Bridge: "br0", MAC: guestMAC, Queues: queues, Owner: -1})
		if want := []string{"vnet0", "vnet1"}[i]; tap.Name != want {
			t.Errorf("name %s, want %s", tap.Name, want)
		}
		if len(tap.Files) != queues {
			t.Errorf("%d files for %d queues", len(tap.Files), queues)
		}
		l, err := h.Link(tap.Name)
		if err != nil {
			t.Fatal(err)
		}
		want := Link{Name: tap.Name, Index: tap.Index, Kind: "tuntap", MTU: 1400, Up: true, Bridge: "br0"}
		if got := l; got.MAC.String() != "fe:54:00:01:02:03" || got.Bridge != want.Bridge || got.MTU != want.MTU || !got.Up || got.Index != want.Index || got.Kind != want.Kind {
			t.Errorf("link %+v, want %+v", got, want)
		}
		for _, f := range tap.Files {
			var size int
			if size, err = unix.IoctlGetInt(int(f.Fd()), unix.TUNGETVNETHDRSZ); err != nil || size != VnetHeaderSize {
				t.Errorf("vnet header of %d bytes, %v", size, err)
			}
		}
		if tap.Offloads&offloadBase != offloadBase {
			t.Errorf("offloads %#x lack the base set", tap.Offloads)
		}
		tap.Close()
		if _, err := h.Link(tap.Name); !errors.Is(err, unix.ENODEV) {
			t.Errorf("tap survives its last descriptor: %v", err)
		}
	}
	if br, err := h.Link("br0"); err != nil || br.MTU != 1400 {
		t.Errorf("bridge %+v, %v", br, err)
	}
}

func TestTapErrors(t *testing.T) {
	h := inNamespace(t)
	busy := openTap(t, h, TapConfig{Name: "tap0", Owner: -1})
	for _, c := range []struct {
		name   string
		config TapConfig
		code   virterr.Code
		text   string
	}{
		{"missing bridge", TapConfig{Bridge: "br9"}, virterr.SystemError, "Cannot get interface MTU on 'br9': No such device"},
		{"missing bridge, own MTU", TapConfig{Bridge: "br9", MTU: 1500}, virterr.SystemError, "Unable to add bridge br9 port vnet0: No such device"},
		{"not a bridge", TapConfig{Bridge: "lo"}, virterr.SystemError, "not a bridge"},
		{"busy", TapConfig{Name: busy.Name}, virterr.SystemError, "Unable to create tap device tap0: Device or resource busy (all its queues are in use by "},
		{"taken by another kind", TapConfig{Name: "br0"}, virterr.SystemError, "Unable to create tap device br0: File exists"},
		{"too few queues", TapConfig{Name: busy.Name, Queues: 2}, virterr.ConfigUnsupported, "multi_queue"},
		{"unmanaged without name", TapConfig{Unmanaged: true}, virterr.ConfigUnsupported, "target dev must be supplied when managed='no'"},
		{"unmanaged missing", TapConfig{Unmanaged: true, Name: "tap9"}, virterr.ConfigUnsupported, "target managed='no' but specified dev doesn't exist"},
		{"unmanaged bridge", TapConfig{Unmanaged: true, Name: "br0"}, virterr.ConfigUnsupported, "not a tap"},
		{"name too long", TapConfig{Name: "abcdefghijklmnop"}, virterr.InvalidArg, "abcdefghijklmnop"},
		{"name with slash", TapConfig{Name: "../x"}, virterr.InvalidArg, "'../x'"},
		{"reserved MAC", TapConfig{MAC: net.HardwareAddr{0xfe, 0, 0, 0, 0, 1}}, virterr.ConfigUnsupported, "0xFE"},
		{"too many queues", TapConfig{Queues: 17}, virterr.ConfigUnsupported, "17 queues"},
		{"impossible MTU", TapConfig{MTU: 70000}, virterr.SystemError, "Cannot set interface MTU on 'vnet1'"},
	} {
		c.config.Owner = -1
		tap, err := h.OpenTap(c.config)
		if err == nil {
			tap.Close()
			t.Errorf("%s: succeeded", c.name)
			continue
		}
		if !virterr.Is(err, c.code) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (code %d), want code %d and %q", c.name, err, virterr.As(err).Code, c.code, c.text)
		}
	}
	links, err := h.List()
	if err != nil || len(links) != 3 { // lo, br0, tap0
		t.Errorf("links left behind: %+v, %v", links, err)
	}
}

func TestExistingTap(t *testing.T) {
	h := inNamespace(t)
	made := openTap(t, h, TapConfig{Name: "mine", Queues: 2, Owner: 1000, Persistent: true})
	made.Close()
	before, err := h.Link("mine")
	if err != nil {
		t.Fatalf("persistent tap is gone: %v", err)
	}
	if err := h.SetUp("mine", false); err != nil {
		t.Fatal(err)
	}
	if err := h.SetMTU("mine", 9000); err != nil {
		t.Fatal(err)
	}
	for _, queues := range []int{1, 2} { // a multi_queue tap also serves one queue
		tap := openTap(t, h, TapConfig{Name: "mine", Queues: queues, MAC: guestMAC, Unmanaged: true})
		after, err := h.Link("mine")
		if err != nil || after.Up || after.MTU != 9000 || after.MAC.String() != before.MAC.String() {
			t.Errorf("unmanaged tap was changed: %+v, %v", after, err)
		}
		tap.Close()
	}
	tap := openTap(t, h, TapConfig{Name: "mine", MTU: 1300, Bridge: "br0", Owner: -1})
	if l, err := h.Link("mine"); err != nil || !l.Up || l.MTU != 1300 || l.Bridge != "br0" {
		t.Errorf("managed existing tap: %+v, %v", l, err)
	}
	tap.Close()
	if err := h.Detach("mine"); err != nil {
		t.Fatal(err)
	}
	if l, err := h.Link("mine"); err != nil || l.Bridge != "" {
		t.Errorf("after detach: %+v, %v", l, err)
	}
	for range 2 { // deleting what is gone is fine
		if err := h.Delete("mine"); err != nil {
			t.Error(err)
		}
	}
	if err := h.Delete("lo"); !virterr.Is(err, virterr.InvalidArg) {
		t.Errorf("delete lo: %v", err)
	}
}

// TestCoalesce: what a tap gathers is set when it is made, changes, and is refused of links that gather nothing.
func TestCoalesce(t *testing.T) {
	h := inNamespace(t)
	tap := openTap(t, h, TapConfig{Owner: -1, Coalesce: 7, Device: "/dev/net/tun"})
	if n, err := h.Coalesce(tap.Name); err != nil || n != 7 {
		t.Errorf("%d frames, %v", n, err)
	}
	if err := h.SetCoalesce(tap.Name, 0); err != nil {
		t.Error(err)
	}
	if n, err := h.Coalesce(tap.Name); err != nil || n != 0 {
		t.Errorf("afterwards %d frames, %v", n, err)
	}
	if err := h.SetCoalesce("lo", 7); err == nil || !strings.Contains(err.Error(), "Cannot set coalesce info on 'lo'") {
		t.Errorf("loopback: %v", err)
	}
	if err := h.SetCoalesce("none", 7); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a missing link: %v", err)
	}
	if _, err := h.OpenTap(TapConfig{Owner: -1, Device: "/dev/does-not-exist"}); err == nil || !strings.Contains(err.Error(), "/dev/does-not-exist") {
		t.Errorf("a missing device: %v", err)
	}
}

func TestGuestStatsAreSwapped(t *testing.T) {
	h := inNamespace(t)
	tap := openTap(t, h, TapConfig{Owner: -1})
	frame := make([]byte, VnetHeaderSize+60) // an all-zero frame: broadcast-free, unknown type, counted by the device
	if _, err := unix.Write(int(tap.Files[0].Fd()), frame); err != nil {
		t.Fatal(err)
	}
	s, err := h.GuestStats(tap.Name)
	if err != nil || s.TxPackets != 1 || s.TxBytes == 0 {
		t.Errorf("what the guest sent is not its transmit counter: %+v, %v", s, err)
	}
	if _, err := h.GuestStats("none"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("statistics of a missing link: %v", err)
	}
}

func TestOpenVhostNet(t *testing.T) {
	files, err := (&Host{}).OpenVhostNet("", 2)
	if _, statErr := os.Stat(VhostNetDevice); statErr != nil {
		if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "vhost-net was requested for an interface, but is unavailable") {
			t.Errorf("without the device: %v", err)
		}
		return
	}
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		f.Close()
	}
}

// TestNothingLeaks goes through good and bad starts and counts descriptors and links.
func TestNothingLeaks(t *testing.T) {
	h := inNamespace(t)
	count := func() (fds, links int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		list, err := h.List()
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), len(list)
	}
	fds, links := count()
	for range 50 {
		tap, err := h.OpenTap(TapConfig{Bridge: "br0", Queues: 4, MAC: guestMAC, Owner: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.OpenTap(TapConfig{Name: tap.Name, Queues: 2, MTU: 1 << 20, Owner: -1}); err == nil {
			t.Fatal("an impossible MTU was set")
		}
		tap.Close()
		if _, err := h.OpenTap(TapConfig{Name: "p", Persistent: true, MTU: 1 << 20, Owner: -1}); err == nil {
			t.Fatal("an impossible MTU was set")
		}
	}
	if f, l := count(); f != fds || l != links {
		t.Errorf("%d descriptors and %d links, before %d and %d", f, l, fds, links)
	}
}
