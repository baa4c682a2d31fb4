package hypervisor

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/kvm"
	"virtd/hypervisor/monitor"
)

// guestPlug says "r" and then does by hand what an operating system does through the DSDT's methods: a vCPU that came is
// started by INIT and SIPI, counts itself in 0x9000 and is told as its digit; one that is asked to go is ejected at once and
// told as "A", for the flags that are left, with its digit. "c" has it tell the count, "R" reset, "q" power off.
const guestPlug = "c70500800000faf0ff06c705048000000090faf4c70508800000ebfd9090c7050090000000000000bc00700000a1f000e0fe" +
	"0d00010000a3f000e0feb072e8a800000066bad80c31c0ef66badd0cee66badc0ceca8027530a804756266bafd03eca80174" +
	"de66baf803ec3c710f84880000003c52747b3c6375c9a1009000000430e865000000ebbbb002eee85300000089d8c1e018a3" +
	"1003e0fec7050003e0fe00450000a31003e0fec7050003e0fe0846000088d80430e82f000000eb85b004eee81d00000066ba" +
	"dc0cb008eeec0441e81600000088d80430e80d000000e960ffffff66bae00ced89c3c366baf803eec366baf90cb006eeebfe" +
	"66ba040666b8003c66eff4ebf3"

// plugGuest boots guestPlug with the first vCPU of 4.
func plugGuest(t *testing.T, change func(*Config)) *testMachine {
	t.Helper()
	m := bootGuest(t, guestPlug, func(c *Config) {
		c.CPU.Count = 4
		if change != nil {
			change(c)
		}
	})
	m.wantSerial("r")
	return m
}

func (m *testMachine) wantCPUs(want ...int) {
	m.t.Helper()
	var have []int
	for _, c := range m.Control().CPUs() {
		have = append(have, c.Index)
		if c.ThreadID == 0 {
			m.t.Errorf("vCPU %d has no thread", c.Index)
		}
	}
	if !slices.Equal(have, want) {
		m.t.Errorf("vCPUs %v, want %v", have, want)
	}
}

func (m *testMachine) plug(cpu int, says string) {
	m.t.Helper()
	if err := m.PlugCPU(cpu); err != nil {
		m.t.Fatal(err)
	}
	m.wantSerial(says)
}

func (m *testMachine) unplug(cpu int, says string) {
	m.t.Helper()
	if err := m.UnplugCPU(cpu); err != nil {
		m.t.Fatal(err)
	}
	m.wantSerial(says)
	eventually(m.t, "the vCPU is gone", func() bool {
		return !slices.ContainsFunc(m.Control().CPUs(), func(c monitor.CPU) bool { return c.Index == cpu })
	})
}

// counted asks the guest how many vCPUs counted themselves, until it says want: a vCPU takes its time to start.
func (m *testMachine) counted(want string) {
	m.t.Helper()
	var b [1]byte
	defer func() {
		if string(b[:]) != want {
			m.t.Logf("the guest counts %q", b)
		}
	}()
	eventually(m.t, "the guest counts "+want, func() bool {
		m.serial.Write([]byte("c"))
		if _, err := m.serial.Read(b[:]); err != nil {
			m.t.Fatal(err)
		}
		return string(b[:]) == want
	})
}

func TestCPUHotplug(t *testing.T) {
	m := plugGuest(t, nil)
	m.wantCPUs(0)
	for round, count := 0, 0; round < 3; round++ { // the later rounds use the vCPUs of the first one again
		m.plug(2, "2")
		m.wantCPUs(0, 2)
		m.plug(1, "1")
		m.plug(3, "3")
		m.wantCPUs(0, 1, 2, 3)
		count += 3
		m.counted(string(rune('0' + count)))
		m.unplug(2, "A2")
		m.wantCPUs(0, 1, 3)
		m.unplug(3, "A3")
		m.unplug(1, "A1")
		m.wantCPUs(0)
	}
	m.serial.Write([]byte("q"))
	m.wantEnd(ExitShutdown)
	m.wantEvents(strings.Repeat("DEVICE_DELETED ", 9) + "SHUTDOWN")
}

func TestCPUHotplugWhilePaused(t *testing.T) {
	m := plugGuest(t, nil)
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := m.PlugCPU(1); err != nil {
		t.Fatal(err)
	}
	m.wantCPUs(0, 1)
	if err := m.UnplugCPU(1); err != nil { // a guest that stands still does not answer
		t.Fatal(err)
	}
	m.wantCPUs(0, 1)
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	m.wantSerial("1A1")
	eventually(t, "the vCPU is gone", func() bool { return len(m.Control().CPUs()) == 1 })
	m.plug(1, "1")
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	m.Stop(ExitQuit, "")
	m.wantEnd(ExitQuit)
}

// A reset takes away what the guest was asked to let go of, and what the next guest sees agrees with what is there.
func TestCPUHotplugAndReset(t *testing.T) {
	m := plugGuest(t, nil)
	m.plug(1, "1")
	m.plug(2, "2")
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := m.UnplugCPU(2); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	m.wantCPUs(0, 1)
	if tables, err := m.buildTables(); err != nil || m.board.tables == nil || string(tables.Tables) != string(m.board.tables.Tables) {
		t.Errorf("the guest has other tables than those of its processors (%v)", err)
	}
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	m.wantSerial("r")
	m.plug(2, "2")
	m.serial.Write([]byte("R"))
	m.wantSerial("r")
	m.wantCPUs(0, 1, 2)
	m.serial.Write([]byte("q"))
	m.wantEnd(ExitShutdown)
}

func TestCPUHotplugRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		cpu    int
		want   string
	}{
		{"the first", nil, 0, "1 to 3 can come and go"},
		{"negative", nil, -1, "1 to 3 can come and go"},
		{"too many", nil, 4, "1 to 3 can come and go"},
		{"there already", func(c *Config) { c.CPU.Online = 2 }, 1, "there already"},
		{"older machine", func(c *Config) { c.Machine = MachineQ35V10 }, 1, "use " + MachineQ35},
		{"no ACPI", func(c *Config) { c.CPU.NoACPI = true }, 1, "without ACPI"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := bootGuest(t, guestHalt, func(cfg *Config) {
				cfg.CPU.Count = 4
				if c.change != nil {
					c.change(cfg)
				}
			})
			if err := m.PlugCPU(c.cpu); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err := m.UnplugCPU(3); err == nil {
				t.Error("what is not there was asked to go")
			}
			m.Stop(ExitQuit, "")
			if err := m.PlugCPU(1); !errors.Is(err, ErrEnded) {
				t.Errorf("plugged into an ended machine: %v", err)
			}
		})
	}
	for _, present := range [][]int{{1, 2}, {0, 0}, {0, 4}, {0, 2, 1}, {0}, {0, -1}} {
		c := CPU{Count: 4, Online: 2, Present: present}
		if got, err := c.present(); err == nil {
			t.Errorf("%v gives %v", present, got)
		}
	}
}

// A machine is saved with the vCPUs that it has then, by number, and goes on with them.
func TestCPUHotplugSaveRestore(t *testing.T) {
	m := plugGuest(t, nil)
	m.plug(1, "1")
	m.plug(2, "2")
	m.unplug(1, "A1")
	m.counted("2")
	path := filepath.Join(t.TempDir(), "state")
	if err := m.Save(context.Background(), create(t, path), monitor.Described{CPUs: []int{0, 1}}); err == nil {
		t.Error("saved as something else")
	}
	if err := m.Save(context.Background(), create(t, path), monitor.Described{CPUs: []int{0, 2}}); err != nil {
		t.Fatal(err)
	}
	if err := m.PlugCPU(1); err == nil {
		t.Error("plugged after the save")
	}
	m.Stop(ExitQuit, "")
	restored := func(present ...int) *testMachine {
		b := buildGuestWith(t, guestPlug, func(c *Config) {
			c.CPU.Count, c.CPU.Online, c.CPU.Present = 4, len(present), present
			c.Incoming, c.Paused = "incoming", true
		}, map[FileName]int{"incoming": openFD(t, path, unix.O_RDONLY)})
		return b
	}
	if err := restored(0, 1).Start(); err == nil || !strings.Contains(err.Error(), "vCPUs by number") {
		t.Errorf("restored with other vCPUs: %v", err)
	}
	b := restored(0, 2)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	b.wantCPUs(0, 2)
	b.counted("2")
	b.plug(1, "1")
	b.unplug(2, "A2")
	b.plug(3, "3")
	b.wantCPUs(0, 1, 3)
	b.counted("4")
	b.serial.Write([]byte("q"))
	b.wantEnd(ExitShutdown)
}

func TestTransplant(t *testing.T) {
	first := []kvm.CPUIDEntry{{Function: 1, EBX: 0x00040800, ECX: 0xff}, {Function: 0xb, Index: 1, Flags: kvm.CPUIDSignificantIndex, EDX: 0}, {Function: 7, EBX: 3}}
	hostFirst := []kvm.CPUIDEntry{{Function: 1, EBX: 0x00040800, ECX: 0x0f}, {Function: 0xb, Index: 1, Flags: kvm.CPUIDSignificantIndex, EDX: 0}, {Function: 7, EBX: 7}}
	own := []kvm.CPUIDEntry{{Function: 1, EBX: 0x02040800, ECX: 0x0f}, {Function: 0xb, Index: 1, Flags: kvm.CPUIDSignificantIndex, EDX: 2}, {Function: 7, EBX: 7}}
	want := []kvm.CPUIDEntry{{Function: 1, EBX: 0x02040800, ECX: 0xff}, {Function: 0xb, Index: 1, Flags: kvm.CPUIDSignificantIndex, EDX: 2}, {Function: 7, EBX: 3}}
	if got := transplant(first, hostFirst, own); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
