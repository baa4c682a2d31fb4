package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// throttleScript is a guest that goes through phases, which the host begins by growing the disk vdc, and tells how long its
// reads took.
const throttleScript = `
ms() { read up _ </proc/uptime; echo "${up%.*}${up#*.}0"; }
phase() { until [ "$(cat /sys/block/vdc/size)" = $((2048*$1)) ]; do sleep 0.1; done; }
reads() { dd if=/dev/$1 of=/dev/null bs=4096 count=$2 iflag=direct 2>/dev/null; }
timed() { t0=$(ms); eval "$2"; echo "$1 took $(($(ms)-t0)) ms"; }
echo armed
phase 2; timed 'phase 2' 'reads vda 20'
phase 3; reads vda 100 & reads vdb 20; kill -0 $! && echo 'phase 3: the other disk did not wait'; wait
phase 4; echo 'phase 4: reading'; reads vda 600; echo 'phase 4: the limit was lifted'
phase 5; timed 'phase 5' 'reads vda 20 & reads vdb 20; wait'
phase 6; timed 'phase 6' 'dd if=/dev/zero of=/dev/vdb bs=4096 count=20 oflag=direct 2>/dev/null'
phase 7; echo 'phase 7: reading'; for i in 1 2 3 4 5 6 7 8; do dd if=/dev/vda of=/dev/null bs=4096 skip=$((i*64)) count=50 iflag=direct 2>/dev/null & done; wait; echo 'phase 7: all is read'
phase 8; echo 'phase 8: reading'; reads vda 1000; echo not reached
`

// The limits of disks hold a Linux guest back and nobody else: those of the definition, those that are set while it runs, and
// those of a group; over a kill of virtd, and through a pause, a managed save and a reset in the middle of reads that wait.
func TestLabDiskLimits(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	h := startHost(t)
	k := labtest.Kernel("6.1")
	const tenASecond = "<iotune><total_iops_sec>10</total_iops_sec></iotune>"
	name := h.define(guest{name: "limits", kernel: k, vcpus: 1,
		initrd:  labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": throttleScript}),
		devices: disk(h.image("a", 8), "vda", tenASecond) + disk(h.image("b", 8), "vdb", "") + disk(h.image("c", 1), "vdc", "")})
	h.vctl("start", name)
	h.expect(name, "armed", 90*time.Second)
	phase := func(n int) { t.Helper(); h.virsh("blockresize", name, "vdc", fmt.Sprintf("%dM", n)) }
	// Two requests go at once, the others at ten a second.
	slow := func(n int) {
		t.Helper()
		took := fmt.Sprintf(`phase %d took (\d+) ms`, n)
		h.until(60*time.Second, took, func() bool { return regexp.MustCompile(took).MatchString(h.output(name)) })
		if ms := field(t, h.output(name), took); ms < 1500 {
			t.Errorf("phase %d: 20 requests at ten a second took %d ms", n, ms)
		}
	}

	phase(2)
	slow(2)
	phase(3)
	h.expect(name, "phase 3: the other disk did not wait", 30*time.Second)

	events := watchEvents(t, h)
	phase(4)
	h.expect(name, "phase 4: reading", 60*time.Second)
	h.virsh("blkdeviotune", name, "vda", "--total-iops-sec", "0")
	h.expect(name, "phase 4: the limit was lifted", 30*time.Second)
	h.until(30*time.Second, "event tunable", func() bool { return strings.Contains(events(), "blkdeviotune.total_iops_sec: 0") })

	for _, d := range []string{"vda", "vdb"} {
		h.virsh("blkdeviotune", name, d, "--total-iops-sec", "20", "--group-name", "both")
	}
	phase(5)
	slow(5)

	if testing.Short() {
		h.vctl("destroy", name)
		return
	}
	h.vctl("disk", "throttle", name, "vdb", "--write-iops-sec", "10")
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
	for _, d := range []string{"vda", "vdb"} {
		if n := field(t, h.virsh("blkdeviotune", name, d), `write_iops_sec *: (\d+)`); n != 10 {
			t.Errorf("after a kill of virtd %s has a limit of %d writes", d, n)
		}
	}
	phase(6)
	slow(6)

	// Eight readers wait, for minutes; nothing that is done to the guest waits with them.
	h.virsh("blkdeviotune", name, "vda", "--total-iops-sec", "1")
	phase(7)
	h.expect(name, "phase 7: reading", 30*time.Second)
	h.virsh("suspend", name)
	h.state(name, "paused")
	h.virsh("resume", name)
	h.virsh("managedsave", name)
	h.state(name, "shut off")
	h.virsh("start", name)
	h.virsh("blkdeviotune", name, "vda", "--total-iops-sec", "0")
	h.expect(name, "phase 7: all is read", 30*time.Second)

	h.virsh("blkdeviotune", name, "vda", "--total-iops-sec", "1")
	phase(8)
	h.expect(name, "phase 8: reading", 30*time.Second)
	h.virsh("reset", name)
	h.expect(name, "armed", 90*time.Second) // the console began anew with the restored engine
	h.vctl("destroy", name)
	h.off(name, 30*time.Second)
}
