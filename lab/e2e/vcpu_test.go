package e2e

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// vcpuGuest switches on what comes, which a stock kernel leaves to user space, and says which processors are on, each time
// after something ran on every one of them.
const vcpuGuest = `
last=none
while [ ! -e /tmp/end ]; do
  for f in /sys/devices/system/cpu/cpu*/online; do
    [ -e $f ] && [ "$(cat $f)" = 0 ] && echo 1 >$f 2>/dev/null
  done
  now=$(cat /sys/devices/system/cpu/online)
  if [ "$now" != "$last" ]; then
    ran=
    for c in /sys/devices/system/cpu/cpu[0-9]*; do
      n=${c##*cpu}
      ran="$ran $(taskset -c $n sh -c 'i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; cut -d" " -f39 /proc/$$/stat' 2>/dev/null)"
    done
    echo "cpus $now ran$ran."
    last=$now
  fi
  sleep 0.1
done
`

// cpusLine is what that guest says.
var cpusLine = regexp.MustCompile(`cpus (\S+) ran([ 0-9]*)\.`)

// A stock guest gets processors while it runs, uses them, and gives them back, again and again. virtd may die meanwhile, and
// the guest may be saved and restored with what it has then.
func TestLabVCPUHotplug(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	if !testing.Short() {
		t.Run("pc", func(t *testing.T) { testVCPUHotplug(t, "pc", 20, "6.1") })
	}
	t.Run("q35", func(t *testing.T) { testVCPUHotplug(t, "q35", 2, "6.12") })
}

func testVCPUHotplug(t *testing.T, machine string, rounds int, kernel string) {
	h := startHost(t)
	k := labtest.Kernel(kernel)
	g := guest{name: "plug", kernel: k, initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": vcpuGuest}),
		machine: machine, vcpus: 1, maxVCPUs: 3, elements: "<cputune><vcpupin vcpu='2' cpuset='0'/></cputune>"}
	name := h.define(g)
	if !testing.Short() { // a guest of before keeps the machine that it knows
		g.name, g.machine = "older", "pc-i440fx-virtd-1.0"
		older := h.define(g)
		h.vctl("start", older)
		h.expect(older, "cpus 0 ran 0.", 2*time.Minute)
		h.refuses("cannot change while it runs", "virsh", "setvcpus", older, "2", "--live")
		h.virsh("destroy", older)
	}
	h.vctl("start", name)
	has := func(cpus string, numbers ...string) {
		t.Helper()
		said := ""
		h.until(2*time.Minute, "the guest has the processors "+cpus, func() bool {
			all := cpusLine.FindAllStringSubmatch(h.output(name), -1)
			if len(all) > 0 {
				said = all[len(all)-1][1] + " ran " + strings.Join(strings.Fields(all[len(all)-1][2]), " ")
			}
			return len(all) > 0 && all[len(all)-1][1] == cpus
		})
		if want := cpus + " ran " + strings.Join(numbers, " "); said != want {
			t.Errorf("the guest says %q, want %q", said, want)
		}
		if got := strings.TrimSpace(h.virsh("vcpucount", name, "--active", "--live")); got != fmt.Sprint(len(numbers)) {
			t.Errorf("%s of %v vCPUs are counted", got, numbers)
		}
		for _, n := range numbers {
			if info := h.virsh("vcpuinfo", name); !strings.Contains(info, "VCPU:           "+n+"\n") {
				t.Errorf("vCPU %s is not in\n%s", n, info)
			}
		}
	}
	has("0", "0")
	for round := 1; round <= rounds; round++ {
		h.virsh("setvcpus", name, "3", "--live")
		has("0-2", "0", "1", "2")
		if round == 1 {
			h.checkPlugged(name)
		}
		if round == 2 { // the next virtd knows what this one began
			virshDies(h, name)
			has("0-2", "0", "1", "2")
		}
		h.shrink(name, 1)
		has("0", "0")
	}
	h.virsh("setvcpu", name, "2", "--enable", "--live")
	has("0,2", "0", "2")
	h.refuses("already in requested state", "virsh", "setvcpu", name, "2", "--enable", "--live")
	image := h.path("image")
	h.virsh("save", name, image)
	h.virsh("restore", image)
	h.virsh("setvcpus", name, "3", "--live")
	has("0-2", "0", "1", "2")
	h.shrink(name, 1)
	has("0", "0")
	h.virsh("destroy", name)
}

// shrink takes vCPUs away. The lab is slow: a guest that needs longer than virtd waits is given its time.
func (h *host) shrink(name string, n int) {
	h.t.Helper()
	h.until(2*time.Minute, "the guest lets its processors go", func() bool {
		_, stderr, status := h.try("virsh", "setvcpus", name, fmt.Sprint(n), "--live")
		if status != 0 && !strings.Contains(stderr, "vcpu unplug request timed out") {
			h.t.Fatalf("setvcpus %d: %s", n, stderr)
		}
		return status == 0
	})
}

// checkPlugged looks at what clients are told of a domain with three vCPUs, of which two came.
func (h *host) checkPlugged(name string) {
	h.t.Helper()
	xml := h.virsh("dumpxml", name)
	for id, want := range []string{"enabled='yes' hotpluggable='no' order='1'", "enabled='yes' hotpluggable='yes' order='2'",
		"enabled='yes' hotpluggable='yes' order='3'"} {
		if line := fmt.Sprintf("<vcpu id='%d' %s/>", id, want); !strings.Contains(xml, line) {
			h.t.Errorf("%s is not in\n%s", line, xml)
		}
	}
	if !strings.Contains(h.virsh("dumpxml", name, "--inactive"), "<vcpu placement='static' current='1'>3</vcpu>") {
		h.t.Error("the configuration changed")
	}
	stats := h.virsh("domstats", name, "--vcpu")
	for n := range 3 {
		if field(h.t, stats, fmt.Sprintf(`vcpu\.%d\.time=(\d+)`, n)) == 0 {
			h.t.Errorf("vCPU %d used no time:\n%s", n, stats)
		}
	}
	h.virsh("vcpupin", name, "1", "0", "--live")
	h.refuses("requested vcpus is greater than max allowable vcpus for the live domain: 4 > 3", "virsh", "setvcpus", name, "4", "--live")
	h.refuses("can't be hotunplugged", "virsh", "setvcpu", name, "0", "--disable", "--live")
}

// virshDies has virtd killed while it changes the number of vCPUs, and the next one finish that.
func virshDies(h *host, name string) {
	h.t.Helper()
	h.shrink(name, 1)
	cmd := exec.Command("virsh", "-c", h.uri(), "setvcpus", name, "3", "--live")
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // somewhere in between; every outcome must be told right
	h.stopDaemon(syscall.SIGKILL)
	_ = cmd.Wait()
	h.startDaemon()
	count := strings.TrimSpace(h.virsh("vcpucount", name, "--active", "--live"))
	if info := h.virsh("vcpuinfo", name); fmt.Sprint(strings.Count(info, "VCPU:")) != count {
		h.t.Errorf("%s vCPUs after a restart of virtd, and\n%s", count, info)
	}
	h.virsh("setvcpus", name, "3", "--live")
}
