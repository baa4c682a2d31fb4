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
	lives := h.define(guest{name: "lives", kernel: labtest.Kernel("6.1"), run: "while :; do echo tick; sleep 1; done"})
	dies := h.define(guest{name: "dies", kernel: labtest.Kernel("6.1"), memory: 128})
	h.vctl("start", lives)
	h.vctl("start", dies)
	h.expect(lives, "tick", 150*time.Second)
	id, pid := strings.TrimSpace(h.virsh("domid", lives)), h.engine(lives)
	victim := h.engine(dies)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		h.stopDaemon(sig)
		ticks := strings.Count(h.output(lives), "tick")
		if victim != 0 {
			if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
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
	}
	h.vctl("destroy", lives)
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Errorf("engine %d is still there after destroy", pid)
	}
}

// The engine of a running guest has no privileges left.
func TestLabEngineIsConfined(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	name := h.define(guest{name: "confined", kernel: labtest.Kernel("6.1"), memory: 128})
	h.vctl("start", name)
	h.expect(name, "LAB-GUEST: shell", 150*time.Second)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.engine(name)))
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
}
