package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// A guest runs on while virtd is killed or stopped; the next virtd finds it with its id, state and console, and tells
// of the ones that died meanwhile.
func TestLabGuestsSurviveVirtd(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	h := startHost(t)
	lives := h.define(guest{name: "lives", kernel: labtest.Kernel("6.1"), run: "while :; do echo tick; sleep 1; done",
		console: ptyWithLog(h.path("lives.console"))})
	dies := h.define(guest{name: "dies", kernel: labtest.Kernel("6.1"), memory: 128})
	h.vctl("start", lives)
	h.vctl("start", dies)
	h.expect(lives, "tick", 150*time.Second)
	id, pid := strings.TrimSpace(h.virsh("domid", lives)), h.engine(lives)
	victim := h.engine(dies)
	for _, c := range []struct {
		sig     syscall.Signal
		upgrade bool
	}{{syscall.SIGKILL, false}, {syscall.SIGTERM, true}, {syscall.SIGKILL, false}} {
		sig := c.sig
		h.stopDaemon(sig)
		if c.upgrade {
			upgrade(t, h)
		}
		ticks := strings.Count(h.output(lives), "tick")
		if victim != 0 {
			kill(t, victim)
			victim = 0
		}
		h.until(20*time.Second, "ticks without virtd", func() bool { return strings.Count(h.output(lives), "tick") > ticks })
		h.startDaemon()
		if got := h.vctl("domstate", "--reason", lives); !strings.HasPrefix(got, "running") {
			t.Errorf("after %v: %s", sig, got)
		}
		if got := strings.TrimSpace(h.virsh("domid", lives)); got != id {
			t.Errorf("after %v: id %s, was %s", sig, got, id)
		}
		if got := h.engine(lives); got != pid {
			t.Errorf("after %v: engine %d, was %d", sig, got, pid)
		}
		if got := h.vctl("domstate", "--reason", dies); got != "shut off (crashed)\n" {
			t.Errorf("the guest that died: %s", got)
		}
		h.vctl("suspend", lives)
		h.vctl("resume", lives)
		typed := expect(t, fmt.Sprintf("spawn %s -c %s console %s\nwant tick\nwant tick\nsend \x1d\nexpect timeout {exit 98} eof\nleave\n",
			labtest.Binary(t, "vctl"), h.uri(), lives))
		if !strings.Contains(typed, "tick") {
			t.Errorf("after %v the console is silent", sig)
		}
	}
	events := watchEvents(t, h)
	h.vctl("suspend", lives)
	h.until(10*time.Second, "events of an adopted domain", func() bool { return strings.Contains(events(), "'lives': Suspended Paused") })
	h.vctl("destroy", lives)
	if exists(fmt.Sprintf("/proc/%d", pid)) {
		t.Errorf("engine %d is still there after destroy", pid)
	}
	h.vctl("start", "--paused", dies) // with the newer engine
}

// upgrade puts other builds of the daemon and the engine in place, as a package does: new files under the old names. A
// byte behind the end makes them different files without changing what they do.
func upgrade(t *testing.T, h *host) {
	t.Helper()
	for _, name := range []string{"virtd", "virtd-vmm"} {
		data, err := os.ReadFile(h.program(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.path(name+".new"), append(data, 0), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(h.path(name+".new"), h.path(name)); err != nil {
			t.Fatal(err)
		}
	}
}

// Autostart happens once in each boot of the host, not at each start of virtd.
func TestLabAutostart(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	k := labtest.Kernel("6.1")
	for _, name := range []string{"auto", "manual"} {
		h.define(guest{name: name, kernel: k, memory: 128})
	}
	h.vctl("autostart", "auto")
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
	time.Sleep(3 * time.Second)
	h.state("auto", "shut off") // this boot had its autostart
	h.stopDaemon(syscall.SIGTERM)
	mark := h.path("state/autostarted")
	if data, err := os.ReadFile(mark); err != nil || len(data) < 30 {
		t.Fatalf("the mark of this boot: %q, %v", data, err)
	}
	// what another boot left
	if err := os.WriteFile(mark, []byte("00000000-0000-0000-0000-000000000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.startDaemon()
	h.until(30*time.Second, "autostart", func() bool { return strings.HasPrefix(h.vctl("domstate", "auto"), "running") })
	h.state("manual", "shut off")
	h.expect("auto", "LAB-GUEST: userspace", 150*time.Second)
	h.vctl("destroy", "auto")
	h.stopDaemon(syscall.SIGTERM)
	h.startDaemon()
	time.Sleep(3 * time.Second)
	h.state("auto", "shut off")
}

// The engine of a running guest has no privileges left.
func TestLabEngineIsConfined(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	name := h.define(guest{name: "confined", kernel: labtest.Kernel("6.1"), memory: 128})
	h.vctl("start", name)
	h.expect(name, "LAB-GUEST: shell", 150*time.Second)
	pid := h.engine(name)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	status := string(data)
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if uid := field(t, status, `Uid:\s+(\d+)`); uid == 0 {
		t.Error("the engine runs as root")
	}
	for _, kind := range []string{"net", "ipc", "pid"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		if ours, _ := os.Readlink("/proc/self/ns/" + kind); ours == theirs {
			t.Errorf("the engine is in the host's %s namespace", kind)
		}
	}
	links, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil || strings.Count(string(links), ":") != 1 || !strings.Contains(string(links), "lo:") {
		t.Errorf("the engine sees more network than its own loopback:\n%s (%v)", links, err)
	}
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(cgroup), h.uuid(name)) {
		t.Errorf("the engine is in cgroup %s (%v)", cgroup, err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil || field(t, string(limits), `Max core file size\s+(\d+)`) != 0 {
		t.Errorf("a core file would hold guest memory:\n%s (%v)", limits, err)
	}
}
