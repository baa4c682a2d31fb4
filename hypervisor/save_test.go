package hypervisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/monitor"
	"virtd/hypervisor/statefile"
)

// rich is a machine with something of everything.
func rich(c *Config) {
	c.CPU.Count, c.CPU.Online = 2, 2
	c.Disks = []Disk{{ID: "virtio-disk0", Address: PCIAddress{Slot: 3}, File: "disk", Format: "raw"}}
	c.Consoles = []Console{{ID: "console1", Address: PCIAddress{Slot: 4}, Chardev: Chardev{Type: "null"}}}
	c.Balloon = &Balloon{ID: "balloon0", Address: PCIAddress{Slot: 5}}
	c.RNGs = []RNG{{ID: "rng0", Address: PCIAddress{Slot: 6}}}
}

// richGuest builds a rich machine. incoming is a file to start from, or "".
func richGuest(t *testing.T, incoming string, change func(*Config)) *testMachine {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	files := map[FileName]int{"disk": openFD(t, disk, unix.O_RDWR)}
	return buildGuestWith(t, guestEcho, func(c *Config) {
		rich(c)
		if incoming != "" {
			c.Incoming, c.Paused = "incoming", true
			files["incoming"] = openFD(t, incoming, unix.O_RDONLY)
		}
		if change != nil {
			change(c)
		}
	}, files)
}

func openFD(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// saved starts a rich machine, has it echo a character, and saves it to a file.
func saved(t *testing.T) (m *testMachine, path string) {
	t.Helper()
	m = richGuest(t, "", nil)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	m.serial.Write([]byte("a"))
	m.wantSerial("a")
	path = filepath.Join(t.TempDir(), "state")
	if err := m.Save(context.Background(), create(t, path), monitor.Described{}); err != nil {
		t.Fatal(err)
	}
	return m, path
}

// sections reads a saved state.
func sections(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := statefile.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Section != "" {
			out[rec.Section] = bytes.Clone(rec.Data)
		}
	}
}

func TestSaveRestore(t *testing.T) {
	a, path := saved(t)
	if s, reason := a.Status(); s != StatePaused || reason != "save" {
		t.Errorf("state %s (%s) after a save", s, reason)
	}
	count, err := a.mem.LoadUint32(0x9000)
	if err != nil || count == 0 {
		t.Fatalf("the guest counted to %d, %v", count, err)
	}
	regs, err := a.runner.cpus()[0].v.Regs()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if now, _ := a.mem.LoadUint32(0x9000); now != count {
		t.Error("the guest ran on")
	}
	clock, machineTime := a.frozen.clock.Clock, a.clock.Now()
	if err := a.CommitSave(); err != nil {
		t.Fatal(err)
	}
	a.Stop(ExitQuit, "saved")
	a.wantEnd(ExitQuit)

	b := richGuest(t, path, nil)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	if s, _ := b.Status(); s != StatePaused {
		t.Errorf("state %s after a restore", s)
	}
	if now, _ := b.mem.LoadUint32(0x9000); now != count {
		t.Errorf("count %d came back as %d", count, now)
	}
	if got, err := b.runner.cpus()[0].v.Regs(); err != nil || *got != *regs {
		t.Errorf("registers %+v came back as %+v, %v", regs, got, err)
	}
	if b.frozen.clock.Clock != clock || b.clock.Now() != machineTime {
		t.Errorf("clocks %d and %d came back as %d and %d", clock, machineTime, b.frozen.clock.Clock, b.clock.Now())
	}
	again := filepath.Join(t.TempDir(), "again")
	if err := b.Save(context.Background(), create(t, again), monitor.Described{}); err != nil {
		t.Fatal(err)
	}
	compareSections(t, sections(t, path), sections(t, again))
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	b.serial.Write([]byte("bq"))
	b.wantSerial("bq")
	b.wantEnd(ExitShutdown)
}

// compareSections wants the same state but for counters that cannot stand still.
func compareSections(t *testing.T, was, is map[string][]byte) {
	t.Helper()
	if len(was) != len(is) {
		t.Errorf("%d sections became %d", len(was), len(is))
	}
	for name, a := range was {
		b := is[name]
		if strings.HasPrefix(name, "cpu/") {
			compareCPU(t, name, a, b)
			continue
		}
		if name == "time/guest" || name == "irq/pit" || name == "chipset/rtc" { // have times of the host in them
			continue
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s:\n%s\ncame back as\n%s", name, a, b)
		}
	}
}

func compareCPU(t *testing.T, name string, a, b []byte) {
	t.Helper()
	var was, is cpuState
	if err := errors.Join(json.Unmarshal(a, &was), json.Unmarshal(b, &is)); err != nil {
		t.Fatal(err)
	}
	// the encoded state up to the MSRs, which have the time stamp counter, and the APIC, whose timer may run
	const regs, sregs = 4 + 144, 4 + 312
	xsave := 4 + int(binary.LittleEndian.Uint32(was.State[regs+sregs:]))
	if n := regs + sregs + xsave; len(is.State) < n || !bytes.Equal(was.State[:n], is.State[:n]) {
		t.Errorf("%s: registers differ after a restore", name)
	}
	if was.TSCKHz != is.TSCKHz || len(was.CPUID) != len(is.CPUID) || len(was.State) != len(is.State) {
		t.Errorf("%s: %d kHz, %d leaves, %d bytes came back as %d, %d, %d", name, was.TSCKHz, len(was.CPUID), len(was.State),
			is.TSCKHz, len(is.CPUID), len(is.State))
	}
}

// TestResumeVoidsSavedState: whoever has the file of a machine that went on has nothing.
func TestResumeVoidsSavedState(t *testing.T) {
	for name, goOn := range map[string]func(*testMachine) error{
		"resume": func(m *testMachine) error { return m.Resume() },
		"lost":   func(m *testMachine) error { return m.AbandonSave() },
		"reset":  func(m *testMachine) error { return errors.Join(m.Reset(), m.Resume()) },
	} {
		t.Run(name, func(t *testing.T) {
			m, path := saved(t)
			sections(t, path) // whole
			if err := goOn(m); err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(path); err != nil || st.Size() != 0 {
				t.Errorf("the file has %d bytes, %v", st.Size(), err)
			}
			if err := m.CommitSave(); err == nil {
				t.Error("a state that is void was kept")
			}
			m.serial.Write([]byte("q"))
			m.wantEnd(ExitShutdown)
		})
	}
}

func TestCommittedSaveStays(t *testing.T) {
	m, path := saved(t)
	if err := m.CommitSave(); err != nil {
		t.Fatal(err)
	}
	if err := m.AbandonSave(); err != nil {
		t.Error(err)
	}
	if err := m.Resume(); !errors.Is(err, ErrEnded) {
		t.Errorf("resume of a machine that was saved for good: %v", err)
	}
	if err := m.Reset(); err == nil {
		t.Error("a machine that was saved for good was reset")
	}
	m.Stop(ExitQuit, "saved")
	m.wantEnd(ExitQuit)
	if len(sections(t, path)) < 15 {
		t.Error("the state is not whole")
	}
}

// TestFailedSaveGoesOn: a full disk and a client that changed its mind cost the guest nothing.
func TestFailedSaveGoesOn(t *testing.T) {
	m := richGuest(t, "", nil)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Save(context.Background(), full, monitor.Described{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("save to a full device: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Save(ctx, create(t, filepath.Join(t.TempDir(), "x")), monitor.Described{}); !errors.Is(err, errCanceled) {
		t.Errorf("canceled save: %v", err)
	}
	if s, _ := m.Status(); s != StateRunning {
		t.Errorf("state %s", s)
	}
	m.wantEvents("STOP RESUME STOP RESUME")
	m.serial.Write([]byte("cq"))
	m.wantSerial("cq")
	m.wantEnd(ExitShutdown)
	if err := m.Save(context.Background(), create(t, filepath.Join(t.TempDir(), "y")), monitor.Described{}); !errors.Is(err, ErrEnded) {
		t.Errorf("save of an ended machine: %v", err)
	}
}

// TestSaveOfPausedStaysPaused: a machine that has not run yet can be saved too.
func TestSaveOfPausedStaysPaused(t *testing.T) {
	a := richGuest(t, "", func(c *Config) { c.Paused = true })
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state")
	if err := a.Save(context.Background(), create(t, path), monitor.Described{}); err != nil {
		t.Fatal(err)
	}
	if err := a.Save(context.Background(), create(t, path+"2"), monitor.Described{}); !errors.Is(err, ErrJob) {
		t.Errorf("a second save: %v", err)
	}
	a.Stop(ExitQuit, "")
	b := richGuest(t, path, nil)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	b.serial.Write([]byte("zq"))
	b.wantSerial("zq")
	b.wantEnd(ExitShutdown)
}

func TestRestoreRefuses(t *testing.T) {
	m, path := saved(t)
	m.Stop(ExitQuit, "")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		state  []byte
		change func(*Config)
		want   string
	}{
		"cut":       {whole[:len(whole)-1], nil, "cut off"},
		"half":      {whole[:len(whole)/2], nil, "cut off"},
		"flipped":   {flipped, nil, "damaged"},
		"void":      {nil, nil, "cut off"},
		"something": {bytes.Repeat([]byte("x"), 1000), nil, "not the state of a machine"},
		"RAM":       {whole, func(c *Config) { c.Memory.Size = 64 << 20 }, "bytes of RAM"},
		"vCPUs":     {whole, func(c *Config) { c.CPU.Count, c.CPU.Online = 1, 1 }, "vCPUs"},
		"device":    {whole, func(c *Config) { c.RNGs = nil }, "device rng0 at"},
		"moved":     {whole, func(c *Config) { c.RNGs[0].Address.Slot = 9 }, "device rng0 at"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := filepath.Join(t.TempDir(), "bad")
			if err := os.WriteFile(bad, c.state, 0o600); err != nil {
				t.Fatal(err)
			}
			b := richGuest(t, bad, c.change)
			if err := b.Start(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if err := b.Resume(); !errors.Is(err, ErrEnded) { // as a client may that has waited for Start
				t.Errorf("what was never loaded resumes with %v", err)
			}
			if r := b.Record(); r.Reason != ExitError || !strings.Contains(r.Detail, c.want) {
				t.Errorf("exit record %+v", r)
			}
			if exits := b.runner.cpus()[0].exits.Load(); exits != 0 {
				t.Errorf("the guest ran: %d exits", exits)
			}
		})
	}
}

// TestSaveOfResettingGuest: whatever the guest does at the moment, it is saved whole, or told why not and goes on.
func TestSaveOfResettingGuest(t *testing.T) {
	m := bootGuest(t, guestPanic, func(c *Config) { c.OnCrash = ActionReset })
	saves := 0
	for i := range 40 {
		path := filepath.Join(t.TempDir(), "state")
		switch err := m.Save(context.Background(), create(t, path), monitor.Described{}); {
		case err == nil:
			saves++
			if err := m.Resume(); err != nil {
				t.Fatal(err)
			}
		case !errors.Is(err, errGuestActs):
			t.Fatalf("save %d: %v", i, err)
		}
	}
	t.Logf("%d of 40 saved", saves)
	m.Stop(ExitQuit, "")
	m.wantEnd(ExitQuit)
}
