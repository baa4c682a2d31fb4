package hypervisor

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"virtd/hypervisor/monitor"
)

func TestPowerOff(t *testing.T) {
	for _, machine := range []string{MachineQ35} {
		m := bootGuest(t, guestHello, func(c *Config) { c.Machine = machine })
		m.wantSerial("hi")
		m.wantEnd(ExitShutdown)
		m.wantEvents("SHUTDOWN")
	}
}

// TestPowerOffStartsAgain: the guest's power-off is half of a reboot when the monitor says so.
func TestPowerOffStartsAgain(t *testing.T) {
	m := bootGuest(t, guestButton, nil)
	m.Control().SetPoweroffAction(true)
	if err := m.PowerDown(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a reset", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.events) == 3 })
	m.Control().SetPoweroffAction(false)
	if err := m.PowerDown(); err != nil {
		t.Fatal(err)
	}
	m.wantEnd(ExitShutdown)
	m.wantEvents("POWERDOWN SHUTDOWN RESET POWERDOWN SHUTDOWN")
}

func TestGuestReset(t *testing.T) {
	m := bootGuest(t, guestReboot, nil)
	m.wantSerial("123")
	m.wantEnd(ExitShutdown)
	m.wantEvents("RESET RESET SHUTDOWN")
}

func TestGuestEvents(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   string
		change func(*Config)
		reason ExitReason
	}{
		{"reset stops", guestReboot, func(c *Config) { c.OnReboot = ActionStop }, ExitReboot},
		{"keyboard reset", guestKbdReset, func(c *Config) { c.OnReboot = ActionStop }, ExitReboot},
		{"triple fault", guestTripleFault, func(c *Config) { c.OnReboot = ActionStop }, ExitReboot},
		{"panic", guestPanic, nil, ExitPanic},
	} {
		t.Run(c.name, func(t *testing.T) { bootGuest(t, c.code, c.change).wantEnd(c.reason) })
	}
}

func TestPanicPreserved(t *testing.T) {
	m := bootGuest(t, guestPanic, func(c *Config) { c.OnCrash = ActionPreserve })
	eventually(t, "crashed", func() bool { s, _ := m.Status(); return s == StateCrashed })
	m.wantEvents("GUEST_PANICKED STOP")
	if err := m.Resume(); err == nil {
		t.Error("a crashed guest was resumed")
	}
	m.Stop(ExitQuit, "")
	m.wantEnd(ExitQuit)
}

// TestPanicLoop: a guest that panics at each start, with restart as the action, can still be ended.
func TestPanicLoop(t *testing.T) {
	m := bootGuest(t, guestPanic, func(c *Config) { c.OnCrash = ActionReset })
	eventually(t, "several resets", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.events) > 8 })
	m.Stop(ExitQuit, "")
	m.wantEnd(ExitQuit)
}

func TestProcessorsStart(t *testing.T) {
	m := bootGuest(t, guestSMP, func(c *Config) { c.CPU.Count, c.CPU.Online = 4, 4 })
	m.wantSerial("3")
	m.wantEnd(ExitShutdown)
}

// TestResetWithProcessors resets a machine whose other processors run.
func TestResetWithProcessors(t *testing.T) {
	m := bootGuest(t, guestEcho, func(c *Config) { c.CPU.Count, c.CPU.Online = 3, 3 })
	for i := range 20 {
		if err := m.Reset(); err != nil {
			t.Fatalf("reset %d: %v", i, err)
		}
	}
	m.serial.Write([]byte("q"))
	m.wantEnd(ExitShutdown)
}

func TestSerialEcho(t *testing.T) {
	m := bootGuest(t, guestEcho, nil)
	text := ""
	for i := range 40 {
		text += fmt.Sprintf("line %d\n", i)
	}
	go m.serial.Write([]byte(text + "q"))
	m.wantSerial(text + "q")
	m.wantEnd(ExitShutdown)
}

func TestHaltedGuestCanBeStopped(t *testing.T) {
	m := bootGuest(t, guestHalt, nil)
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	m.Stop(ExitQuit, "destroyed")
	m.wantEnd(ExitQuit)
}

// An NMI wakes a guest that halted with interrupts off; without a handler for it that is a triple fault. One that comes
// while the machine is paused waits.
func TestNMIWakesHaltedGuest(t *testing.T) {
	for _, paused := range []bool{false, true} {
		m := bootGuest(t, guestHalt, func(c *Config) { c.Paused = paused; c.OnReboot = ActionStop })
		time.Sleep(50 * time.Millisecond) // until it halts; without that the test is weaker, not wrong
		if err := m.NMI(); err != nil {
			t.Fatal(err)
		}
		if paused {
			if err := m.Resume(); err != nil {
				t.Fatal(err)
			}
		}
		m.wantEnd(ExitReboot)
		if err := m.NMI(); !errors.Is(err, ErrEnded) {
			t.Errorf("NMI to an ended machine: %v", err)
		}
	}
}

func TestPowerButton(t *testing.T) {
	m := bootGuest(t, guestButton, nil)
	if err := m.PowerDown(); err != nil {
		t.Fatal(err)
	}
	m.wantEnd(ExitShutdown)
	if err := m.PowerDown(); !errors.Is(err, ErrEnded) {
		t.Errorf("power button of an ended machine: %v", err)
	}
}

func TestPauseResume(t *testing.T) {
	m := bootGuest(t, guestEcho, func(c *Config) { c.CPU.Count, c.CPU.Online = 2, 2 })
	m.serial.Write([]byte("a"))
	m.wantSerial("a")
	for range 30 {
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		before, err := m.mem.LoadUint32(0x9000)
		if err != nil {
			t.Fatal(err)
		}
		timer := m.clock.Now()
		time.Sleep(2 * time.Millisecond)
		if after, _ := m.mem.LoadUint32(0x9000); after != before {
			t.Fatalf("a paused guest counted from %d to %d", before, after)
		}
		if now := m.clock.Now(); now != timer {
			t.Fatalf("the ACPI timer ran from %d to %d while paused", timer, now)
		}
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	m.serial.Write([]byte("bq"))
	m.wantSerial("bq")
	m.wantEnd(ExitShutdown)
}

// TestClockStandsStill: what kvmclock and the TSC say after a pause is at most what they said before, plus the time that
// passed since Resume began.
func TestClockStandsStill(t *testing.T) {
	m := bootGuest(t, guestEcho, nil)
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	clock := m.frozen.clock.Clock
	tsc := m.frozen.tsc
	time.Sleep(300 * time.Millisecond)
	resumed := time.Now()
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	c, err := m.vm.Clock()
	if err != nil {
		t.Fatal(err)
	}
	limit := uint64(time.Since(resumed) + time.Millisecond)
	if passed := c.Clock - clock; passed > limit {
		t.Errorf("kvmclock went on by %d ns over a pause; %d passed since", passed, limit)
	}
	m.Pause()
	if now, err := m.runner.cpus()[0].v.TSCOffset(); err != nil || now == tsc[0].offset {
		t.Skipf("this host's KVM does not shift the TSC of a guest (needs Linux 5.16 and hardware virtualization): the TSC part is not tested: %v", err)
	}
	khz, err := m.runner.cpus()[0].v.TSCKHz()
	if err != nil {
		t.Fatal(err)
	}
	limit = uint64(time.Since(resumed)+time.Millisecond) * uint64(khz) / 1_000_000
	if passed := m.frozen.tsc[0].tsc - tsc[0].tsc; passed > limit {
		t.Errorf("the TSC went on by %d over a pause; %d passed since", passed, limit)
	}
}

func TestStartPaused(t *testing.T) {
	m := bootGuest(t, guestHello, func(c *Config) { c.Paused = true })
	if s, _ := m.Status(); s != StatePaused {
		t.Errorf("state %s", s)
	}
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	m.wantSerial("hi")
	m.wantEnd(ExitShutdown)
	m.wantEvents("RESUME SHUTDOWN")
}

func TestResetWhilePaused(t *testing.T) {
	m := bootGuest(t, guestEcho, nil)
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	if s, _ := m.Status(); s != StatePaused {
		t.Errorf("state %s after the reset of a paused machine", s)
	}
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	m.serial.Write([]byte("q"))
	m.wantEnd(ExitShutdown)
}

// TestThreadsAreNamedOnceTheyExist: who asks for the vCPUs' threads before the machine started gets them when it has.
func TestThreadsAreNamedOnceTheyExist(t *testing.T) {
	m := buildGuest(t, guestHello, func(c *Config) { c.Paused = true; c.CPU.Count, c.CPU.Online = 2, 2; c.CPU.Topology.Cores = 2 })
	asked := make(chan []monitor.CPU)
	go func() { asked <- m.Control().CPUs() }()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	cpus := <-asked
	if len(cpus) != 2 || cpus[0].ThreadID == 0 || cpus[1].ThreadID == 0 {
		t.Errorf("CPUs %+v", cpus)
	}
	m.Stop(ExitQuit, "seen")
	m.wantEnd(ExitQuit)
}

// TestStopBeforeStart: a machine that was built and never started can be ended.
func TestStopBeforeStart(t *testing.T) {
	m := buildGuest(t, guestHello, nil)
	m.Stop(ExitQuit, "not wanted")
	m.wantEnd(ExitQuit)
}

func TestRefusedConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"version":   func(c *Config) { c.Version = ConfigVersion + 1 },
		"machine":   func(c *Config) { c.Machine = "pc-q35-9.0" },
		"no CPU":    func(c *Config) { c.CPU.Count, c.CPU.Online = 0, 0 },
		"memory":    func(c *Config) { c.Memory.Size = 12345 },
		"no KVM":    func(c *Config) { c.KVM = "nope" },
		"no kernel": func(c *Config) { c.Boot.Kernel = "" },
		"serial":    func(c *Config) { c.Serials[0].Chardev.Type = "spicevmc" },
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig()
			change(c)
			if m, err := New(c, Host{Files: map[FileName]int{}, Logf: t.Logf}); err == nil {
				m.Stop(ExitQuit, "")
				t.Error("accepted")
			}
		})
	}
}
