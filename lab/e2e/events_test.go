package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// What a guest does to itself leads to the configured action, the state with its reason, and the event.
func TestLabGuestEvents(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	h := startHost(t)
	for _, c := range []struct {
		name, run, elements string
		args, devices       string
		state               string // at the end
		events              []string
		again               bool // the guest comes up a second time
	}{
		{name: "shutdown", run: "true", state: "shut off (shutdown)", events: []string{"Shutdown Finished after guest request", "Stopped Shutdown"}},
		{name: "reboot", run: "true", args: "lab.then=reboot", state: "running", events: []string{"reboot"}, again: true},
		{name: "rebootdestroy", run: "true", args: "lab.then=reboot", elements: "<on_reboot>destroy</on_reboot>", state: "shut off", events: []string{"Stopped"}},
		{name: "triplefault", run: "true", args: "reboot=t lab.then=reboot", elements: "<on_reboot>destroy</on_reboot>", state: "shut off", events: []string{"Stopped"}},
		{name: "triplefaultagain", run: "true", args: "reboot=t lab.then=reboot", state: "running", events: []string{"reboot"}, again: true},
		{name: "panic", run: "modprobe -a pvpanic-mmio; echo c > /proc/sysrq-trigger", devices: "<panic model='isa'/>",
			elements: "<on_crash>destroy</on_crash>", state: "shut off (crashed)", events: []string{"Crashed Panicked", "Stopped Crashed"}},
		{name: "panickept", run: "modprobe -a pvpanic-mmio; echo c > /proc/sysrq-trigger", devices: "<panic model='isa'/>",
			elements: "<on_crash>preserve</on_crash>", state: "crashed (panicked)", events: []string{"Crashed Panicked"}},
	} {
		if testing.Short() && c.name != "triplefaultagain" && c.name != "panic" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			events := watchEvents(t, h)
			name := h.define(guest{name: c.name, kernel: labtest.Kernel("6.1"), memory: 128, run: c.run, args: c.args, elements: c.elements, devices: c.devices})
			h.vctl("start", name)
			if c.again {
				h.until(150*time.Second, "a second boot", func() bool { return strings.Count(h.output(name), "LAB-GUEST: userspace") >= 2 })
			}
			h.until(150*time.Second, "state "+c.state, func() bool { return strings.HasPrefix(h.vctl("domstate", "--reason", name), c.state) })
			for _, want := range c.events {
				h.until(10*time.Second, "event "+want, func() bool { return strings.Contains(events(), want) })
			}
			h.try("vctl", "destroy", name)
			h.vctl("undefine", name)
		})
	}
	h.t = t
}

// watchEvents runs virsh event until the test ends and returns what it printed so far.
func watchEvents(t *testing.T, h *host) func() string {
	t.Helper()
	return watchEventsWith(t, h, "virsh")
}

// watchEventsWith does so with one of the clients.
func watchEventsWith(t *testing.T, h *host, client string) func() string {
	t.Helper()
	out := &lockedBuffer{}
	args := []string{"-oL", "virsh", "-c", h.uri(), "event", "--all", "--loop"}
	if client == "vctl" {
		args = []string{"-oL", labtest.Binary(t, "vctl"), "-c", h.uri(), "event"}
	}
	cmd := exec.Command("stdbuf", args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	time.Sleep(2 * time.Second) // registered: virsh says nothing when it is
	return out.String
}

// While a guest is paused its monotonic clock stands still, and it goes on without complaint.
func TestLabPausedTimeStandsStill(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	name := h.define(guest{name: "paused", kernel: labtest.Kernel("6.1"), memory: 128, run: "while :; do echo up $(cut -d. -f1 /proc/uptime); sleep 1; done"})
	h.vctl("start", name)
	h.expect(name, "up ", 150*time.Second)
	h.vctl("suspend", name)
	before := lastUptime(t, h.output(name))
	time.Sleep(25 * time.Second)
	if got := lastUptime(t, h.output(name)); got != before {
		t.Errorf("a paused guest went from %d to %d s", before, got)
	}
	h.vctl("resume", name)
	h.until(20*time.Second, "the guest to go on", func() bool { return lastUptime(t, h.output(name)) > before })
	if got := lastUptime(t, h.output(name)); got > before+6 {
		t.Errorf("uptime went from %d to %d s over a pause", before, got)
	}
	time.Sleep(5 * time.Second)
	if out := h.output(name); strings.Contains(out, "soft lockup") || strings.Contains(out, "rcu") {
		t.Errorf("the guest complains:\n%s", tail(out, 2000))
	}
}

func lastUptime(t *testing.T, console string) int {
	lines := strings.Split(console[:strings.LastIndex(console, "\n")+1], "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "up ") {
			return field(t, lines[i], `up (\d+)`)
		}
	}
	t.Fatalf("no uptime on the console:\n%s", console)
	return 0
}
