package e2e

import (
	"regexp"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// What changes in a running domain reaches a Linux guest: a disk grows, a cable is pulled and plugged in, an NMI arrives. The
// neighbour table tells the guest's address, and a device put into the configuration is there after the next start.
func TestLabDeviceChanges(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.Virsh)
	h := startHost(t)
	h.bridge("virtdbr0", "10.91.0.1/24")
	k := labtest.Kernel("6.1")
	script := `
ping -c 2 -W 5 10.91.0.1 && echo pinged
until [ "$(cat /sys/block/vda/size)" = 65536 ]; do sleep 0.2; done; echo the disk grew
until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do sleep 0.2; done; echo the cable is out
until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do sleep 0.2; done; echo the cable is in
until dmesg | grep -q 'NMI received'; do sleep 0.2; done; echo an NMI came
[ ! -e /sys/block/vdb ] || echo the second disk is there
`
	name := h.define(guest{name: "changes", kernel: k, memory: 256,
		initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": script}), args: "lab.net=eth0:10.91.0.2/24",
		devices: disk(h.image("data", 16), "vda", "") + nic("virtdbr0", "qemu", 1)})
	mac := regexp.MustCompile(`52:54:00:\S+`).FindString(h.virsh("domiflist", name))
	more := h.image("more", 1)
	for _, boot := range []string{"", "the second disk is there"} {
		h.vctl("start", name)
		h.expect(name, "pinged", 90*time.Second)
		if got := h.virsh("domifaddr", name, "--source", "arp"); field(t, got, mac+` +ipv4 +10\.91\.0\.(\d+)/`) != 2 {
			t.Errorf("domifaddr:\n%s", got)
		}
		h.virsh("blockresize", name, "vda", "32M")
		h.expect(name, "the disk grew", 30*time.Second)
		h.virsh("domif-setlink", name, mac, "down")
		h.expect(name, "the cable is out", 30*time.Second)
		h.virsh("domif-setlink", name, mac, "up")
		h.expect(name, "the cable is in", 30*time.Second)
		if boot == "" {
			h.virsh("attach-disk", name, more, "vdb", "--config")
		}
		h.virsh("inject-nmi", name) // the guest ends after it
		h.expect(name, "an NMI came", 30*time.Second)
		h.finish(name, 60*time.Second)
		h.expect(name, boot, time.Second)
	}
}
