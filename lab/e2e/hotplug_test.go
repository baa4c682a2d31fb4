package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// plugScript is a guest that uses what comes: it writes a line to the disk, pings through the interface, draws from the
// entropy source, and says when each is gone again.
const plugScript = `
modprobe -a virtio_pci virtio_blk virtio_net virtio_rng
w() { until eval "$1"; do sleep 0.1; done; echo "$2"; }
draw() { dd if=/dev/hwrng of=/dev/null bs=16 count=1 2>/dev/null; }
echo armed
round=0
while [ $round -lt ROUNDS ]; do
round=$((round+1))
w '[ -b /dev/vdb ]' "disk $round came"
echo "round $round" | dd of=/dev/vdb conv=fsync 2>/dev/null && echo "disk $round written"
w '[ -e /sys/class/net/eth0 ]' "nic $round came"
ip link set eth0 up; ip addr add 10.95.0.2/24 dev eth0
ping -c 2 -W 5 10.95.0.1 >/dev/null && echo "nic $round pinged"
w '[ ! -e /dev/vdb ]' "disk $round went"
w '[ ! -e /sys/class/net/eth0 ]' "nic $round went"
done
w draw "rng works"
w '! draw' "rng went"
`

// A stock guest gets a disk, an interface and an entropy source while it runs and gives them back, again and again: what it
// wrote is in the image, every step is an event, and nothing of them stays on the host. virtd may die in between.
func TestLabHotplug(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.VhostNet, labtest.Virsh)
	if !testing.Short() {
		t.Run("one vCPU", func(t *testing.T) { testHotplug(t, 1, 20, "6.1") })
	}
	t.Run("two vCPUs", func(t *testing.T) { testHotplug(t, 2, 2, "6.12") })
}

func testHotplug(t *testing.T, vcpus, rounds int, kernel string) {
	h := startHost(t)
	h.bridge("virtdbr5", "10.95.0.1/24")
	k := labtest.Kernel(kernel)
	name := h.define(guest{name: "plug", kernel: k, vcpus: vcpus, devices: disk(h.image("base", 16), "vda", ""),
		initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": strings.ReplaceAll(plugScript, "ROUNDS", fmt.Sprint(rounds))})})
	image := h.image("more", 16)
	h.vctl("start", name)
	h.expect(name, "armed", 5*time.Minute)
	events := watchEvents(t, h)
	wait := func(what string) { t.Helper(); h.expect(name, what, 2*time.Minute) }
	event := func(want string, n int) {
		t.Helper()
		h.until(30*time.Second, fmt.Sprintf("%d times %s", n, want), func() bool { return strings.Count(events(), want) == n })
	}
	fds := 0
	for round := 1; round <= rounds; round++ {
		model, mac := "virtio", fmt.Sprintf("52:54:00:95:00:%02x", round)
		h.virsh("attach-disk", name, image, "vdb", "--live", "--serial", "hot")
		wait(fmt.Sprintf("disk %d written", round))
		h.virsh("attach-interface", name, "bridge", "virtdbr5", "--model", model, "--mac", mac, "--live")
		wait(fmt.Sprintf("nic %d pinged", round))
		if round == 1 {
			h.refuses("target 'vdb' duplicated for disk sources", "virsh", "attach-disk", name, image, "vdb", "--live")
			h.refuses("in use by domain 'plug'", "virsh", "attach-disk", name, image, "vdc", "--live")
			if n := field(t, h.virsh("domblkstat", name, "vdb"), `wr_req (\d+)`); n == 0 {
				t.Error("no write is counted")
			}
			tap := strings.Fields(h.virsh("domiflist", name))
			if n := field(t, h.virsh("domifstat", name, tap[len(tap)-5]), `tx_packets (\d+)`); n == 0 {
				t.Error("no packet is counted")
			}
			event("'device-added' for domain 'plug': virtio-disk1", 1)
			event("'device-added' for domain 'plug': net0", 1)
		}
		if round == 2 { // the next virtd knows the devices and takes them away
			h.stopDaemon(syscall.SIGKILL)
			h.startDaemon()
			events = watchEvents(t, h)
			if got := h.virsh("domblklist", name); !strings.Contains(got, image) {
				t.Errorf("after a restart of virtd:\n%s", got)
			}
		}
		h.virsh("detach-disk", name, "vdb", "--live")
		h.virsh("detach-interface", name, "bridge", "--mac", mac, "--live")
		wait(fmt.Sprintf("nic %d went", round))
		h.until(30*time.Second, "the devices leave the definition", func() bool {
			return !strings.Contains(h.virsh("dumpxml", name), "virtdbr5") && !strings.Contains(h.virsh("domblklist", name), image)
		})
		if data, err := os.ReadFile(image); err != nil || !bytes.HasPrefix(data, fmt.Appendf(nil, "round %d\n", round)) {
			t.Errorf("round %d: the image begins with %q (%v)", round, data[:16], err)
		}
		if now := h.plugTraces(name, image); fds != 0 && now > fds {
			t.Errorf("round %d: the engine has %d descriptors, after the first %d", round, now, fds)
		} else {
			fds = now
		}
	}
	before := 1
	if rounds > 1 {
		before = rounds - 1 // those that the second virtd saw
	}
	event("'device-removed' for domain 'plug': virtio-disk1", before)
	event("'device-removed' for domain 'plug': net0", before)

	rng := h.file("rng.xml", "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>")
	h.virsh("attach-device", name, rng, "--live")
	wait("rng works")
	h.virsh("detach-device-alias", name, "rng0", "--live")
	wait("rng went")
	event("'device-removed' for domain 'plug': rng0", 1)
	h.finish(name, 60*time.Second)
}

// plugTraces checks that nothing of what went is on the host, and returns how many descriptors the engine has.
func (h *host) plugTraces(name, image string) int {
	h.t.Helper()
	if links := h.ip("-br", "link"); strings.Contains(links, "vnet") {
		h.t.Errorf("a tap stays:\n%s", links)
	}
	fds := h.openFiles(name)
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); target == image {
			h.t.Errorf("the engine holds %s", image)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(image, &st); err != nil {
		h.t.Fatal(err)
	}
	if locks, _ := os.ReadFile("/proc/locks"); strings.Contains(string(locks), fmt.Sprintf(":%d ", st.Ino)) {
		h.t.Errorf("a lock stays on %s:\n%s", image, locks)
	}
	return len(fds)
}

// openFiles are the descriptors of a domain's engine in /proc.
func (h *host) openFiles(name string) []string {
	h.t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.engine(name)))
	if err != nil {
		h.t.Fatal(err)
	}
	return fds
}
