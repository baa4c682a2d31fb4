package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// Starting and destroying Linux guests with a disk, two cards, a console and a balloon leaves nothing behind.
func TestLabStartDestroyLeavesNothing(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.VhostNet)
	h := startHost(t)
	h.bridge("virtdbr1", "10.93.0.1/24")
	image := h.image("leak.img", 16)
	name := h.define(guest{name: "cycle", kernel: labtest.Kernel("6.1"), console: ptyWithLog(h.path("cycle.console")),
		devices: disk(image, "vda", "") + nic("virtdbr1", "qemu", 1) + nic("virtdbr1", "vhost", 1) +
			"<memballoon model='virtio'><stats period='1'/></memballoon><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"})
	cycles := 5
	if testing.Short() {
		cycles = 2
	}
	cycle := func() {
		os.Remove(h.path("cycle.console"))
		h.vctl("start", name)
		h.expect(name, "LAB-GUEST: userspace", 150*time.Second)
		h.vctl("destroy", name)
		h.state(name, "shut off (destroyed)")
	}
	cycle() // what is made once is made now
	before, memory := h.settled(), rss(t, h.daemon.Process.Pid)
	for range cycles {
		cycle()
	}
	h.leavesNothing(before, fmt.Sprintf("%d cycles", cycles))
	if got := rss(t, h.daemon.Process.Pid); got > memory+8 {
		t.Errorf("virtd went from %d to %d MiB", memory, got)
	}
}

// settles reports whether a file is a definition's or the journal's, which follow a change within seconds.
func (h *host) settles(path string) bool { return strings.HasPrefix(path, h.path("state/domains/")) }

// leavesNothing fails the test when the census does not come to be what it was before. Both take their time: virtd closes a
// client's connection after the client has gone, the kernel ends vhost's threads and network namespaces when it gets to it.
func (h *host) leavesNothing(before, what string) {
	h.t.Helper()
	var after string
	for range 20 {
		if after = h.census(); after == before {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	h.t.Fatalf("%s left something behind, or took it away. Before:\n%s\nafter:\n%s", what, before, after)
}

// settled is the census once three in a row are the same.
func (h *host) settled() string {
	h.t.Helper()
	var last string
	same := 0
	h.until(30*time.Second, "census that stays", func() bool {
		now := h.census()
		if now != last {
			last, same = now, 0
		}
		same++
		return same == 3
	})
	return last
}

// census lists what a domain could leave behind.
func (h *host) census() string {
	h.t.Helper()
	var b strings.Builder
	for _, name := range []string{"virtd-vmm", "vhost-"} {
		n := 0
		procs, _ := filepath.Glob("/proc/[0-9]*/comm")
		for _, p := range procs {
			if comm, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(comm), name) {
				n++
			}
		}
		fmt.Fprintf(&b, "%s processes: %d\n", name, n)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.daemon.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	var open []string
	for _, fd := range fds {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", h.daemon.Process.Pid, fd.Name()))
		if err == nil && !h.settles(target) {
			target, _, _ = strings.Cut(target, ":[")
			open = append(open, target)
		}
	}
	sort.Strings(open)
	fmt.Fprintf(&b, "virtd's descriptors: %d\n", len(open))
	for _, target := range open {
		if strings.HasPrefix(target, "/") {
			fmt.Fprintf(&b, "  %s\n", target)
		}
	}
	fmt.Fprintf(&b, "domains: %q\n", strings.Fields(h.vctl("list", "--all", "--name")))
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, l := range links {
		fmt.Fprintf(&b, "link %s\n", l.Name())
	}
	for _, dir := range []string{h.path("run"), h.path("state"), h.path("sock"), "/sys/fs/cgroup", "/dev/pts", "/dev/shm"} {
		filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err == nil && !h.settles(path) && (info.IsDir() || !strings.HasPrefix(path, "/sys")) {
				fmt.Fprintf(&b, "file %s\n", path)
			}
			return nil
		})
	}
	return b.String()
}

// One engine that dies takes nobody with it, and its domain says that it crashed.
func TestLabEngineCrashIsAlone(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	h := startHost(t)
	k := labtest.Kernel("6.1")
	lives := h.define(guest{name: "lives", kernel: k, memory: 128, run: "while :; do echo tick; sleep 1; done"})
	dies := h.define(guest{name: "dies", kernel: k, memory: 128})
	events := watchEvents(t, h)
	h.vctl("start", lives)
	h.expect(lives, "tick", 150*time.Second)
	h.vctl("start", dies)
	pid := h.engine(lives)
	kill(t, h.engine(dies))
	h.until(20*time.Second, "the state of the domain that crashed", func() bool {
		return h.vctl("domstate", "--reason", dies) == "shut off (crashed)\n"
	})
	h.until(10*time.Second, "its event", func() bool { return strings.Contains(events(), "'lifecycle' for domain 'dies': Stopped Failed") })
	ticks := strings.Count(h.output(lives), "tick")
	h.until(20*time.Second, "the other guest to go on", func() bool { return strings.Count(h.output(lives), "tick") > ticks })
	h.state(lives, "running")
	if got := h.engine(lives); got != pid {
		t.Errorf("the other engine is %d, was %d", got, pid)
	}
	h.vctl("start", dies)
	h.state(dies, "running")
}
