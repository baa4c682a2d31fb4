package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/monitor"
	"virtd/hypervisor/vhostuser/vhostusertest"
	"virtd/hypervisor/virtio"
)

// guestWrites waits for a byte from the serial port, writes to 8 pages, the first at 2 MiB and the others 3 pages after the one
// before, answers with "k", and goes on so.
const guestWrites = "66bafd03eca80174fb66baf803ecbf00002000b908000000fe0781c700300000e2f6b06beeebd9"

const guestWrote = "200 203 206 209 20c 20f 212 215" // pages of guestWrites

// writes has guestWrites do it once.
func (m *testMachine) writes() {
	m.t.Helper()
	if _, err := m.serial.Write([]byte("x")); err != nil {
		m.t.Fatal(err)
	}
	m.wantSerial("k")
}

// dirtyPages lists the numbers of the pages that the record has.
func (m *testMachine) dirtyPages() string {
	m.t.Helper()
	var out []string
	if err := m.dirty.Read(func(gpa uint64, bitmap []uint64) {
		for i := range uint64(len(bitmap) * 64) {
			if bitmap[i/64]>>(i%64)&1 != 0 {
				out = append(out, fmt.Sprintf("%x", gpa/memory.PageSize+i))
			}
		}
	}); err != nil {
		m.t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// codePage is the page of the guest's code. Where KVM has to map a page anew while it records, as after a huge page fell to pieces,
// it does so for writing, and counts the page although the guest only reads it.
const codePage = "100"

// wantDirty checks that the record has exactly these pages, and perhaps that of the code.
func (m *testMachine) wantDirty(when, want string) {
	m.t.Helper()
	got := slices.DeleteFunc(strings.Fields(m.dirtyPages()), func(page string) bool { return page == codePage })
	if text := strings.Join(got, " "); text != want {
		m.t.Errorf("%s: written were %s, told are %s", when, want, text)
	}
}

// deviceWrites is a device whose writes only it knows, by page number, as those of a container of passed-through functions.
type deviceWrites map[uint64]bool

func (deviceWrites) StartDirtyLog() error { return nil }
func (deviceWrites) StopDirtyLog() error  { return nil }
func (d deviceWrites) ReadDirty(gpa, pages uint64, bitmap []uint64) error {
	for page := range pages {
		if at := gpa/memory.PageSize + page; d[at] {
			bitmap[page/64] |= 1 << (page % 64)
			delete(d, at)
		}
	}
	return nil
}

// TestDirtyLogOfGuest: exactly the pages that a guest wrote are told, and those of the host and of devices, while vCPUs run,
// also where huge pages were.
func TestDirtyLogOfGuest(t *testing.T) {
	for name, backing := range map[string]memory.Backing{
		"anonymous": {Kind: memory.Anonymous}, "present": {Kind: memory.Anonymous, Prealloc: true}, "shared": {Kind: memory.Memfd, Shared: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := bootGuest(t, guestWrites, func(c *Config) { c.Memory.Backing = backing })
			m.writes() // KVM has mapped the pages, huge where the host has huge ones
			device := deviceWrites{0x300: true, 0x206: true}
			m.dirty.Add(hostdevWriter, device)
			if err := m.dirty.Start(); err != nil {
				t.Fatal(err)
			}
			if err := m.mem.WriteAt(make([]byte, 10), 0x401000-5); err != nil {
				t.Fatal(err)
			}
			m.wantDirty("by the host and a device", "206 300 400 401")
			m.writes()
			m.wantDirty("by the guest", guestWrote)
			m.wantDirty("told twice", "")
			m.writes()
			m.writes()
			m.wantDirty("by the guest again", guestWrote)
			if err := m.dirty.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := m.vm.DirtyLog(0, make([]uint64, 32<<20>>12/64)); err == nil {
				t.Error("the slot still has a log")
			}
			m.writes()
			if err := m.dirty.Start(); err != nil {
				t.Fatal(err)
			}
			m.wantDirty("before the start", "")
		})
	}
}

// TestDirtyLogPaused: the record begins on a guest that stands still, and on one that has not started.
func TestDirtyLogPaused(t *testing.T) {
	m := buildGuest(t, guestWrites, func(c *Config) { c.Paused = true })
	if err := m.dirty.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if got := m.dirtyPages(); !strings.Contains(" "+got+" ", " "+codePage+" ") {
		t.Errorf("the kernel was loaded there, told are %s", got)
	}
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	m.writes()
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	m.wantDirty("by the guest", guestWrote)
	if err := m.dirty.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := m.dirty.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	m.writes()
	m.wantDirty("by the guest after a pause", guestWrote)
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	if got := m.dirtyPages(); !strings.Contains(" "+got+" ", " "+codePage+" ") {
		t.Errorf("the kernel was loaded there again, told are %s", got)
	}
}

// silentDevice is a device whose writes nobody tells.
type silentDevice struct{ deviceWrites }

func (silentDevice) StartDirtyLog() error { return errors.New("nobody tells") }

// TestUntrackedDevice: a device whose writes nobody tells is named, while it is there.
func TestUntrackedDevice(t *testing.T) {
	m := bootGuest(t, guestWrites, nil)
	m.dirty.Add(hostdevWriter, silentDevice{})
	if err := m.dirty.Start(); err == nil || !strings.Contains(err.Error(), hostdevWriter+": ") {
		t.Errorf("error %v does not name the devices", err)
	}
	m.unrecorded(hostdevWriter, func() {})()
	if err := m.dirty.Start(); err != nil {
		t.Error(err)
	}
	m.Stop(ExitQuit, "while it records")
	m.wantEnd(ExitQuit)
	if err := m.dirty.Start(); err == nil {
		t.Error("a machine that ended has a record")
	}
}

// guestBusy counts in each of the 1024 pages from 2 MiB on, without end.
const guestBusy = "bf00002000b900040000ff0781c700100000e2f6ebea"

// measure makes one measurement.
func (m *testMachine) measure(mode string) monitor.DirtyRate {
	m.t.Helper()
	c := m.Control()
	if err := c.StartDirtyRate(monitor.DirtyRateRequest{Mode: mode, Period: time.Second, SamplePages: map[string]int{"page-sampling": 16384}[mode]}); err != nil {
		m.t.Fatal(err)
	}
	if err := c.StartDirtyRate(monitor.DirtyRateRequest{Mode: mode, Period: time.Second}); err == nil {
		m.t.Error("measured twice at a time")
	}
	eventually(m.t, "measured", func() bool { return c.DirtyRate().Status != "measuring" })
	return c.DirtyRate()
}

// TestDirtyRate: both modes find the 4 MiB that a guest writes again and again, and nothing of a guest that stands still.
func TestDirtyRate(t *testing.T) {
	for _, mode := range []string{"page-sampling", "dirty-bitmap"} {
		t.Run(mode, func(t *testing.T) {
			m := bootGuest(t, guestBusy, nil)
			if got := m.Control().DirtyRate(); got.Status != "unstarted" || !got.Start.IsZero() {
				t.Errorf("before: %+v", got)
			}
			got := m.measure(mode)
			rate := func(bytes uint64) uint64 { return bytes * 1000 / uint64(got.Period.Milliseconds()) }
			if got.Status != "measured" || got.Rate != rate(4<<20) && got.Rate != rate(4<<20+4096) { // with the page of the code
				t.Errorf("%+v, want a rate of %d", got, rate(4<<20))
			}
			if err := m.Pause(); err != nil {
				t.Fatal(err)
			}
			if got := m.measure(mode); got.Status != "measured" || got.Rate != 0 {
				t.Errorf("while paused: %+v", got)
			}
		})
	}
}

// TestEndWhileMeasuring: a machine that ends does not wait for a measurement, and no measurement looks at RAM that is gone.
func TestEndWhileMeasuring(t *testing.T) {
	for _, mode := range []string{"page-sampling", "dirty-bitmap"} {
		m := bootGuest(t, guestBusy, nil)
		if err := m.Control().StartDirtyRate(monitor.DirtyRateRequest{Mode: mode, Period: time.Minute}); err != nil {
			t.Fatal(err)
		}
		m.Stop(ExitQuit, "while it measures")
		m.wantEnd(ExitQuit)
		if got := m.Control().DirtyRate(); got.Status != "unstarted" {
			t.Errorf("%s: %+v", mode, got)
		}
		if err := m.Control().StartDirtyRate(monitor.DirtyRateRequest{Mode: mode, Period: time.Minute}); err == nil {
			t.Errorf("%s: measures a machine that ended", mode)
		}
	}
}

// TestSaveWhileMeasuring: a guest that is saved and goes on, and a dump, do not disturb a measurement, nor it them.
func TestSaveWhileMeasuring(t *testing.T) {
	m := bootGuest(t, guestBusy, nil)
	c := m.Control()
	if err := c.StartDirtyRate(monitor.DirtyRateRequest{Mode: "dirty-bitmap", Period: time.Second}); err != nil {
		t.Fatal(err)
	}
	if err := m.Save(context.Background(), create(t, filepath.Join(t.TempDir(), "state")), monitor.Described{}); err != nil {
		t.Fatal(err)
	}
	if err := m.AbandonSave(); err != nil {
		t.Fatal(err)
	}
	if err := m.Dump(context.Background(), create(t, filepath.Join(t.TempDir(), "core")), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "measured", func() bool { return c.DirtyRate().Status != "measuring" })
	if got := c.DirtyRate(); got.Status != "measured" || got.Rate == 0 {
		t.Errorf("%+v", got)
	}
}

// backend is a vhost-user process, with or without a log, and the descriptor of its connection.
func backend(t *testing.T, logs bool) int {
	t.Helper()
	cfg := vhostusertest.Config{Features: virtio.FeatureVersion1 | vhostusertest.FeatureProtocol, Protocol: vhostusertest.ProtocolReplyAck, Queues: 1}
	if logs {
		cfg.Features |= vhostusertest.FeatureLogAll
		cfg.Protocol |= vhostusertest.ProtocolLogShmfd
	}
	_, conn := vhostusertest.Pair(t, cfg)
	return conn
}

// TestAttachWhileRecording: a device that comes while the record runs joins it, and goes with its release; one whose process
// does not tell what it writes is attached all the same, and the record says what it misses.
func TestAttachWhileRecording(t *testing.T) {
	m := bootGuest(t, guestWrites, func(c *Config) {
		c.Memory.Backing = memory.Backing{Kind: memory.Memfd, Shared: true}
		c.RootPorts = []RootPort{{Index: 1, Address: PCIAddress{Slot: 1}}, {Index: 2, Address: PCIAddress{Slot: 2}}}
	})
	attach := func(id string, bus uint8, logs bool) {
		t.Helper()
		a := Attachment{NIC: &NIC{ID: id, MAC: "52:54:00:00:00:01", Address: PCIAddress{Bus: bus}, VhostUser: &VhostUser{Socket: "socket"}}}
		if err := m.Attach(a, map[FileName]int{"socket": backend(t, logs)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.dirty.Start(); err != nil {
		t.Fatal(err)
	}
	attach("net0", 1, true)
	m.writes()
	m.wantDirty("by the guest", guestWrote)
	attach("net1", 2, false)
	const reason = "net1: its vhost-user back end does not tell"
	if err := m.dirty.Read(nil); err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("the record: %v, want %q", err, reason)
	}
	if err := m.dirty.Stop(); err != nil {
		t.Fatal(err)
	}
	err := m.Control().StartDirtyRate(monitor.DirtyRateRequest{Mode: "dirty-bitmap", Period: time.Second})
	if err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("a measurement: %v, want %q", err, reason)
	}
	if got := m.measure("page-sampling"); got.Status != "measured" {
		t.Errorf("sampling needs no record: %+v", got)
	}
}
