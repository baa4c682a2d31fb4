package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// dirtyRateScript is a guest that does nothing until the host grows the disk vda, and then writes the same 64 MiB of a tmpfs
// again and again, each time with other bytes: a page that holds what it held before does not show in its samples.
const dirtyRateScript = `
mkdir -p /mnt; mount -t tmpfs -o size=200m none /mnt
head -c 69206016 /dev/urandom >/mnt/source
echo idle
until [ "$(cat /sys/block/vda/size)" = 4096 ]; do sleep 0.2; done
i=0
while :; do
  dd if=/mnt/source of=/mnt/busy bs=64k skip=$((i%32)) count=1024 conv=notrunc 2>/dev/null
  i=$((i+1)); [ $i = 1 ] && echo busy
done
`

// A guest that writes much shows a dirty rate well above that of the same guest when it did nothing, in both modes, while the
// kernel's vhost-net moves its packets, which it goes on to do. Another virtd knows the result, and a pause does not disturb.
func TestLabDirtyRate(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.VhostNet, labtest.Tun, labtest.Virsh)
	h := startHost(t)
	h.bridge("virtdbr0", "10.91.0.1/24")
	k := labtest.Kernel("6.1")
	name := h.define(guest{name: "dirty", kernel: k, memory: 512,
		initrd:  labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": dirtyRateScript}),
		args:    "lab.net=eth0:10.91.0.2/24",
		devices: disk(h.image("a", 1), "vda", "") + nic("virtdbr0", "vhost", 1)})
	h.vctl("start", name)
	h.expect(name, "idle", 120*time.Second)
	h.refuses("dirty-ring calculation mode requires dirty-ring feature enabled", "virsh", "domdirtyrate-calc", name, "--mode", "dirty-ring")
	ping := func() { t.Helper(); h.sh("ping -c 3 -i 0.2 -W 5 -s 1400 10.91.0.2") }
	modes := []string{"page-sampling", "dirty-bitmap"}
	idle := map[string]int{}
	for _, mode := range modes {
		idle[mode] = h.dirtyRate(name, mode, ping)
	}
	h.virsh("blockresize", name, "vda", "2M")
	h.expect(name, "busy", 120*time.Second)
	for _, mode := range modes {
		busy := h.dirtyRate(name, mode, ping)
		t.Logf("%s: %d MiB/s while idle, %d while busy", mode, idle[mode], busy)
		if busy < 3*(idle[mode]+1) {
			t.Errorf("%s: %d MiB/s while the guest writes, %d while it did nothing", mode, busy, idle[mode])
		}
	}
	h.virsh("suspend", name)
	if rate := h.dirtyRate(name, "dirty-bitmap", func() {}); rate != 0 {
		t.Errorf("%d MiB/s of a guest that is paused", rate)
	}
	h.virsh("resume", name)
	ping()
	if !testing.Short() {
		// What virtd does not hold it cannot lose: the engine knows.
		h.virsh("domdirtyrate-calc", name, "--seconds", "5", "--mode", "dirty-bitmap")
		h.stopDaemon(syscall.SIGKILL)
		h.startDaemon()
		h.until(30*time.Second, "a result of before", func() bool {
			return strings.Contains(h.virsh("domstats", name, "--dirtyrate"), "dirtyrate.calc_status=2")
		})
		if out := h.vctl("dirty-rate", name, "--seconds", "2"); !strings.HasPrefix(out, "Dirty rate: ") {
			t.Errorf("vctl dirty-rate: %s", out)
		}
		h.virsh("domdirtyrate-calc", name, "--seconds", "60") // and the guest ends meanwhile
	}
	h.vctl("destroy", name)
	h.vctl("undefine", name)
}

// dirtyRate measures the rate of a domain over three seconds, while something else happens, and returns it in MiB/s.
func (h *host) dirtyRate(name, mode string, meanwhile func()) int {
	h.t.Helper()
	h.virsh("domdirtyrate-calc", name, "--seconds", "3", "--mode", mode)
	meanwhile()
	var out string
	h.until(60*time.Second, "dirty rate", func() bool {
		out = h.virsh("domstats", name, "--dirtyrate")
		return strings.Contains(out, "dirtyrate.calc_status=2")
	})
	if want := fmt.Sprintf("dirtyrate.calc_mode=%s\n", mode); !strings.Contains(out, want) || field(h.t, out, `calc_period=(\d+)`) < 3 {
		h.t.Errorf("not three seconds of %s:\n%s", mode, out)
	}
	return field(h.t, out, `megabytes_per_second=(\d+)`)
}
