package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// A guest that touched all its memory gives it back and takes it again: its own view, virsh's and the engine's resident
// memory follow.
func TestLabBalloon(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	total, low := 2048, 500
	if memory := memTotal(t); memory < 3000 {
		total, low = 1024, 300 // the lab's usual size; make test-full gives it 6 GiB
	}
	h := startHost(t)
	touch := fmt.Sprintf("mount -t tmpfs -o size=%dm none /mnt || mkdir -p /mnt && mount -t tmpfs -o size=%dm none /mnt; dd if=/dev/zero of=/mnt/fill bs=1M count=%d 2>/dev/null; rm /mnt/fill; echo touched; while :; do free -m | grep Mem; sleep 1; done", total, total, total*7/10)
	name := h.define(guest{name: "balloon", kernel: labtest.Kernel("6.1"), memory: total, run: touch,
		devices: "<memballoon model='virtio'><stats period='1'/></memballoon>"})
	h.vctl("start", name)
	h.expect(name, "touched", 200*time.Second)
	pid := h.engine(name)
	full := rss(t, pid)
	if full < total*6/10 {
		t.Fatalf("the engine has %d MiB resident after the guest touched its memory", full)
	}
	h.vctl("balloon", name, fmt.Sprintf("%dMiB", low), "--timeout", "400s")
	if got := stat(t, h, name, "actual"); got != low*1024 {
		t.Errorf("dommemstat actual %d KiB, want %d", got, low*1024)
	}
	h.until(30*time.Second, "smaller resident memory", func() bool { return rss(t, pid) < low+120 })
	h.until(30*time.Second, "free in the guest to follow", func() bool { return freeTotal(h.output(name)) < low })
	h.until(30*time.Second, "available to follow", func() bool { return stat(t, h, name, "available") < low*1024 })
	h.vctl("balloon", name, fmt.Sprintf("%dMiB", total), "--timeout", "400s")
	h.until(30*time.Second, "free in the guest to grow", func() bool { return freeTotal(h.output(name)) > total*8/10 })
	if got := stat(t, h, name, "actual"); got != total*1024 {
		t.Errorf("dommemstat actual %d KiB, want %d", got, total*1024)
	}
	var info map[string]any
	if err := json.Unmarshal([]byte(h.vctl("-o", "json", "balloon", name)), &info); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"actual", "unused", "available", "usable", "rss", "major_fault", "last_update"} {
		if _, ok := info[key]; !ok {
			t.Errorf("vctl balloon does not tell %s: %v", key, info)
		}
	}
}

func memTotal(t *testing.T) int {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	return field(t, string(data), `MemTotal:\s+(\d+)`) / 1024
}

// rss is the resident memory of a process in MiB.
func rss(t *testing.T, pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	return field(t, string(data), `Rss:\s+(\d+)`) / 1024
}

func field(t *testing.T, text, pattern string) int {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in\n%s", pattern, text)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// stat is one line of virsh dommemstat, or a large number before the guest reported it.
func stat(t *testing.T, h *host, name, key string) int {
	t.Helper()
	for _, line := range strings.Split(h.virsh("dommemstat", name), "\n") {
		if k, v, ok := strings.Cut(line, " "); ok && k == key {
			n, err := strconv.Atoi(v)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 1 << 40
}

// freeTotal is the last total that free printed, in MiB.
func freeTotal(console string) int {
	all := regexp.MustCompile(`Mem:\s+(\d+)`).FindAllStringSubmatch(console, -1)
	if len(all) == 0 {
		return 1 << 20
	}
	n, _ := strconv.Atoi(all[len(all)-1][1])
	return n
}
