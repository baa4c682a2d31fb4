package nodedev

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"virtd/nodedev/nodedevtest"
	"virtd/virterr"
)

// fakeSource is a socket that the test writes to.
type fakeSource struct {
	messages chan any // Uevent or error
	closed   chan struct{}
}

func newFakeSource() *fakeSource {
	return &fakeSource{messages: make(chan any), closed: make(chan struct{})}
}

func (s *fakeSource) Receive() (Uevent, error) {
	select {
	case m := <-s.messages:
		if err, ok := m.(error); ok {
			return Uevent{}, err
		}
		return m.(Uevent), nil
	case <-s.closed:
		return Uevent{}, os.ErrClosed
	}
}

func (s *fakeSource) Close() error { close(s.closed); return nil }

// followed opens the recorded host with a source of uevents, and returns where its events arrive.
func followed(t *testing.T) (*Manager, *fakeSource, string, <-chan Event) {
	cfg := testConfig(t)
	source := newFakeSource()
	cfg.Listen = func() (Source, error) { return source, nil }
	m := open(t, cfg)
	events := make(chan Event, 100)
	m.Subscribe(func(e Event) { events <- e })
	return m, source, cfg.Sys, events
}

func expect(t *testing.T, events <-chan Event, want ...Event) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-events:
			if got != w {
				t.Fatalf("event %+v, want %+v", got, w)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event, want %+v", w)
		}
	}
}

const (
	dummy = "devices/virtual/net/dummy0"
	nvme  = "devices/pci0000:00/0000:00:02.2/0000:03:00.0"
)

func addDummy(t *testing.T, root, mac string) {
	nodedevtest.Build(t, root, "@ "+dummy+"\nsubsystem -> class/net\nuevent INTERFACE=dummy0\naddress "+mac)
}

func TestEvents(t *testing.T) {
	m, source, root, events := followed(t)
	source.messages <- Uevent{"add", "devices/virtual/bdi/7:0"} // nothing that is listed
	addDummy(t, root, "52:54:00:00:00:01")
	source.messages <- Uevent{"add", dummy}
	expect(t, events, Event{Created, "net_dummy0_52_54_00_00_00_01"})
	if parent, err := m.Parent("net_dummy0_52_54_00_00_00_01"); err != nil || parent != "computer" {
		t.Errorf("parent %q, %v", parent, err)
	}
	for _, action := range []string{"change", "bind", "unbind", "online", "add"} {
		source.messages <- Uevent{action, dummy}
		expect(t, events, Event{Changed, "net_dummy0_52_54_00_00_00_01"})
	}
	if err := os.WriteFile(filepath.Join(root, dummy, "address"), []byte("52:54:00:00:00:02\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	source.messages <- Uevent{"change", dummy}
	expect(t, events, Event{Deleted, "net_dummy0_52_54_00_00_00_01"}, Event{Created, "net_dummy0_52_54_00_00_00_02"})
	if _, err := m.XML("net_dummy0_52_54_00_00_00_01"); !virterr.Is(err, virterr.NoNodeDevice) {
		t.Errorf("the old name: %v", err)
	}
	source.messages <- Uevent{"remove", dummy} // even when sysfs still has it
	expect(t, events, Event{Deleted, "net_dummy0_52_54_00_00_00_02"})
	source.messages <- Uevent{"remove", dummy}
	source.messages <- Uevent{"change", nvme}
	expect(t, events, Event{Changed, "pci_0000_03_00_0"})
}

// TestMissedEvents: after an overflow the difference is told, parents before children, what went before what came.
func TestMissedEvents(t *testing.T) {
	m, source, root, events := followed(t)
	before := len(m.List())
	if err := os.RemoveAll(filepath.Join(root, nvme)); err != nil {
		t.Fatal(err)
	}
	addDummy(t, root, "52:54:00:00:00:01")
	source.messages <- ErrMissed
	expect(t, events, Event{Deleted, "pci_0000_03_00_0"}, Event{Deleted, "block_nvme0n1_QEMU_NVMe_Ctrl_lab_nvme_1"},
		Event{Created, "net_dummy0_52_54_00_00_00_01"})
	if n := len(m.List()); n != before-1 {
		t.Errorf("%d devices, %d before", n, before)
	}
	source.messages <- Uevent{"move", dummy}
	source.messages <- Uevent{"change", dummy}
	expect(t, events, Event{Changed, "net_dummy0_52_54_00_00_00_01"}) // a move that changed nothing told nothing
}

// TestWithoutEvents: without a socket the index is made anew for each question.
func TestWithoutEvents(t *testing.T) {
	cfg := testConfig(t)
	cfg.Listen = func() (Source, error) { return nil, os.ErrPermission }
	m := open(t, cfg)
	if _, err := m.Lookup("net_dummy0_52_54_00_00_00_01"); !virterr.Is(err, virterr.NoNodeDevice) {
		t.Fatalf("before it exists: %v", err)
	}
	addDummy(t, cfg.Sys, "52:54:00:00:00:01")
	if _, err := m.Lookup("net_dummy0_52_54_00_00_00_01"); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(cfg.Sys, dummy)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Lookup("net_dummy0_52_54_00_00_00_01"); !virterr.Is(err, virterr.NoNodeDevice) {
		t.Errorf("after it is gone: %v", err)
	}
	if parent, err := m.Parent("pci_0000_01_00_0"); err != nil || parent != "pci_0000_00_02_0" {
		t.Errorf("parent %q, %v", parent, err)
	}
}

// TestFibreChannelComesLater: the kernel tells of a SCSI host before it has made it one on Fibre Channel.
func TestFibreChannelComesLater(t *testing.T) {
	m, source, root, events := followed(t)
	const host = "devices/pci0000:00/0000:00:1f.2/ata1/host0"
	if d, err := m.Lookup("scsi_host0"); err != nil || d.Has(FCHost) {
		t.Fatalf("%+v, %v", d, err)
	}
	nodedevtest.Build(t, root, "@ "+host+"/fc_host/host0\nsubsystem -> class/fc_host\nport_name 0x10\nnode_name 0x20")
	source.messages <- Uevent{"add", host + "/fc_host/host0"}
	expect(t, events, Event{Changed, "scsi_host0"})
	if d, err := m.LookupFCHost("20", "10"); err != nil || d.Name != "scsi_host0" {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestSourceFails: a socket that breaks leaves a manager that looks for itself.
func TestSourceFails(t *testing.T) {
	m, source, root, _ := followed(t)
	source.messages <- os.ErrInvalid
	<-m.done
	addDummy(t, root, "52:54:00:00:00:01")
	if _, err := m.Lookup("net_dummy0_52_54_00_00_00_01"); err != nil {
		t.Error(err)
	}
}

func TestLookups(t *testing.T) {
	m := open(t, testConfig(t))
	_, err := m.Lookup("pci_0000_ff_00_0")
	if e := virterr.As(err); e == nil || e.Code != 53 || e.From != 22 ||
		e.Error() != "Node device not found: no node device with matching name 'pci_0000_ff_00_0'" {
		t.Errorf("unknown name: %v", err)
	}
	d, err := m.LookupFCHost("20000000C9831B4B", "10000000c9831b4b")
	if err != nil || d.Name != "scsi_host2" || !slices.Equal(d.Caps, []string{"scsi_host", "fc_host", "vports"}) {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := m.LookupFCHost("20000000c9831b4b", "0"); !virterr.Is(err, virterr.NoNodeDevice) {
		t.Errorf("unknown wwpn: %v", err)
	}
	for name, want := range map[string]string{
		"computer": "", "pci_0000_01_10_0": "pci_0000_00_02_0", "net_enp1s0_52_54_00_aa_00_01": "pci_0000_01_00_0",
		"block_sda": "scsi_0_0_0_0", "usb_1_1_1_0": "usb_1_1", "net_lo_00_00_00_00_00_00": "computer",
	} {
		if got, err := m.Parent(name); err != nil || got != want {
			t.Errorf("parent of %s: %q, %v; want %q", name, got, err, want)
		}
	}
}

// TestUdevDatabase: what udevd found out gives a disk its name, its bus and its links.
func TestUdevDatabase(t *testing.T) {
	cfg := testConfig(t)
	cfg.Udev = t.TempDir()
	entry := "S:disk/by-path/pci-0000:00:1f.2-ata-1\nS:disk/by-id/ata-QEMU_HARDDISK_QM00001\nI:123\n" +
		"E:ID_BUS=ata\nE:ID_TYPE=disk\nE:ID_SERIAL=QEMU_HARDDISK_QM00001\nG:systemd\n"
	if err := os.WriteFile(filepath.Join(cfg.Udev, "b8:0"), []byte(entry), 0o644); err != nil {
		t.Fatal(err)
	}
	m := open(t, cfg)
	text, err := m.XML("block_sda_QEMU_HARDDISK_QM00001")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"<devnode type='dev'>/dev/sda</devnode>\n  <devnode type='link'>/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001</devnode>\n" +
			"  <devnode type='link'>/dev/disk/by-path/pci-0000:00:1f.2-ata-1</devnode>\n",
		"<bus>ata</bus>", "<serial>QEMU_HARDDISK_QM00001</serial>",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}

// TestLinkWithoutPrivileges: where only 64 bytes of the configuration space can be read, sysfs tells what the link does.
func TestLinkWithoutPrivileges(t *testing.T) {
	cfg := testConfig(t)
	if err := os.Truncate(filepath.Join(cfg.Sys, nvme, "config"), 64); err != nil {
		t.Fatal(err)
	}
	nodedevtest.Build(t, cfg.Sys, "@ "+nvme+"\nmax_link_speed 8.0 GT/s PCIe\nmax_link_width 4\ncurrent_link_speed Unknown\ncurrent_link_width 0\n")
	text, err := open(t, cfg).XML("pci_0000_03_00_0")
	want := "    <pci-express>\n      <link validity='cap' speed='8' width='4'/>\n      <link validity='sta' width='0'/>\n    </pci-express>\n"
	if err != nil || !strings.Contains(text, want) {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestLocal: this host, whatever it is, can be described, and its socket opened and closed.
func TestLocal(t *testing.T) {
	if _, err := os.Stat("/sys/class/net"); err != nil {
		t.Skip("no sysfs")
	}
	m := open(t, Local())
	for _, d := range m.List() {
		if _, err := m.XML(d.Name); err != nil && !virterr.Is(err, virterr.NoNodeDevice) {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]Address{"0000:01:10.2": {0, 1, 0x10, 2}, "10000:ff:1f.7": {0x10000, 0xff, 0x1f, 7}} {
		a, err := ParseAddress(in)
		if diff := cmp.Diff(want, a); err != nil || diff != "" || a.String() != in {
			t.Errorf("%s: %v %v %s", in, a, err, diff)
		}
	}
	for _, bad := range []string{"", "0000:01:10", "01:10.2", "0000:01:20.0", "0000:01:00.8", "0000:100:00.0", "0000:01:00.0 ", "x:01:00.0"} {
		if a, err := ParseAddress(bad); err == nil {
			t.Errorf("%q is taken for %v", bad, a)
		}
	}
}

// TestUeventSocket: the kernel repeats a device's event when its uevent file is written to, which the socket receives.
func TestUeventSocket(t *testing.T) {
	const file = "/sys/class/net/lo/uevent"
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("cannot make events: %v", err)
	}
	defer f.Close()
	m := open(t, Local())
	if m.source == nil {
		t.Skip("this process may not receive device events")
	}
	events := make(chan Event, 100)
	m.Subscribe(func(e Event) {
		select {
		case events <- e:
		default:
		}
	})
	if _, err := f.WriteString("change"); err != nil {
		t.Skipf("cannot make events: %v", err)
	}
	for end := time.After(20 * time.Second); ; {
		select {
		case e := <-events:
			if e == (Event{Changed, "net_lo_00_00_00_00_00_00"}) {
				if m.Close(); m.stale {
					t.Error("closing the socket is taken for a failure")
				}
				return
			}
		case <-end:
			t.Fatal("the event does not arrive")
		}
	}
}
