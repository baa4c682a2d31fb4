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

// plugCardScript is a guest that uses the cards that come, while another interface of it has traffic.
const plugCardScript = `
modprobe -a virtio_pci virtio_net igbvf nvme
w() { until eval "$1"; do sleep 0.1; done; echo "$2"; }
vf() { for n in /sys/class/net/*; do [ "$(basename "$(readlink $n/device/driver 2>/dev/null)")" = igbvf ] && basename $n && return; done; return 1; }
w '[ -e /sys/class/net/eth0 ]' "own interface"
ip addr add 10.96.0.2/24 dev eth0; ip link set eth0 up
{ while true; do ping -c 50 -i 0.05 -q 10.96.0.1 >/dev/null || echo "traffic was lost"; done; } &
echo armed
round=0
while [ $round -lt ROUNDS ]; do
round=$((round+1))
w 'vf >/dev/null' "function $round came"
nic=$(vf); cat /sys/class/net/$nic/address
[ $round = 1 ] && echo "BAR $(head -n 1 /sys/class/net/$nic/device/resource)"
ip addr add 10.77.0.2/24 dev $nic; ip link set $nic up; sleep 1
ping -c 10 -i 0.5 -W 5 10.77.0.1 | grep -q ' 0% packet loss\|bytes from' && echo "function $round pinged"
w '[ -b /dev/nvme0n1 ]' "disk $round came"
echo "round $round" | dd of=/dev/nvme0n1 bs=4096 conv=sync,fsync 2>/dev/null && echo "disk $round written"
w '! vf >/dev/null' "function $round went"
w '[ ! -e /dev/nvme0n1 ]' "disk $round went"
done
`

// A stock guest gets a virtual function and a disk of the host while it runs, and gives them back: again and again, with traffic
// on another interface. Each time the host has them back with their drivers. virtd may die in between.
func TestLabHotplugHostdev(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Tun, labtest.Virsh, labtest.Program("ip"))
	rounds := 10
	if testing.Short() {
		rounds = 1
	}
	h := startHost(t)
	h.labCards()
	const vf, disk = firstVF, cardNVMe
	h.ip("link", "set", h.interfaceOf(cardIGB), "up")
	h.addressed(cardE1000E, "10.77.0.1/24")
	h.functions(1)
	h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
	before := driverOf(vf)
	h.bridge("virtdbr6", "10.96.0.1/24")
	k := labtest.Kernel("6.12")
	name := h.define(guest{name: "plugcard", kernel: k, devices: nic("virtdbr6", "vhost", 1),
		initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": strings.ReplaceAll(plugCardScript, "ROUNDS", fmt.Sprint(rounds))})})
	h.vctl("start", name)
	h.expect(name, "armed", 5*time.Minute)
	wait := func(what string) { t.Helper(); h.expect(name, what, 2*time.Minute) }
	function := h.file("vf.xml", functionNIC(vf, "yes", "52:54:00:77:00:03", ""))
	nvme := h.file("nvme.xml", hostdev(disk, "yes"))
	fds := 0
	for round := 1; round <= rounds; round++ {
		h.virsh("attach-device", name, function, "--live")
		wait(fmt.Sprintf("function %d pinged", round))
		h.virsh("attach-device", name, nvme, "--live")
		wait(fmt.Sprintf("disk %d written", round))
		h.wantDriver(vf, "vfio-pci")
		h.wantDriver(disk, "vfio-pci")
		if round == 1 {
			h.refuses("target pci device 0000:03:00.0 already exists", "virsh", "attach-device", name, nvme, "--live")
			h.refuses("cannot migrate a domain with <interface type='hostdev'>", "virsh", "save", name, h.path("saved"))
			// this IOMMU does not tell what the devices write, so all of the 256 MiB counts
			if rate := h.dirtyRate(name, "dirty-bitmap", func() {}); rate < 256/6 {
				t.Errorf("%d MiB/s dirtied in three seconds or somewhat more, want all of the guest's RAM", rate)
			}
		}
		if round == 2 { // the next virtd knows the devices and takes them away
			h.stopDaemon(syscall.SIGKILL)
			h.startDaemon()
		}
		h.virsh("detach-device", name, function, "--live")
		h.virsh("detach-device", name, nvme, "--live")
		wait(fmt.Sprintf("disk %d went", round))
		h.until(time.Minute, "devices back with their drivers", func() bool { return driverOf(vf) == before && driverOf(disk) == "nvme" })
		h.until(30*time.Second, "the devices leave the definition", func() bool { return !strings.Contains(h.virsh("dumpxml", name), "hostdev") })
		h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
		if text, want := h.sh("head -c 16 /dev/nvme0n1"), fmt.Sprintf("round %d\n", round); !strings.HasPrefix(text, want) {
			t.Errorf("the host reads %q, want %q", text, want)
		}
		if round == 1 && rounds > 1 { // they write no more
			if rate := h.dirtyRate(name, "dirty-bitmap", func() {}); rate > 256/6 {
				t.Errorf("%d MiB/s dirtied without the devices", rate)
			}
		}
		if round == rounds {
			break // the guest ends
		}
		if now := len(h.openFiles(name)); fds != 0 && now > fds {
			t.Errorf("round %d: the engine has %d descriptors, after the first %d", round, now, fds)
		} else {
			fds = now
		}
	}
	h.finish(name, 60*time.Second)
	wantHighBAR(t, h.output(name))
	if out := h.output(name); strings.Contains(out, "traffic was lost") || !strings.Contains(out, "52:54:00:77:00:03") {
		t.Errorf("the guest says:\n%s", tail(out, 3000))
	}
}

// wantHighBAR checks what a guest says of the first BAR, which is prefetchable and has 64 bits, of the function that came to an
// empty root port: it is above 4 GiB, in the share that the port has of the 64-bit window.
func wantHighBAR(t *testing.T, output string) {
	t.Helper()
	_, rest, _ := strings.Cut(output, "BAR 0x")
	var first, last, flags uint64
	if _, err := fmt.Sscanf(rest, "%x 0x%x 0x%x", &first, &last, &flags); err != nil {
		t.Errorf("the guest says nothing of the function's BAR: %v", err)
		return
	}
	const memory64 = 0x102200 // IORESOURCE_MEM, _PREFETCH and _MEM_64
	if first < 4<<30 || last <= first || flags&memory64 != memory64 {
		t.Errorf("the function's BAR is at %#x to %#x with flags %#x", first, last, flags)
	}
}

// The host can take a device back from a guest: it is asked to let go of it, and when it does not, loses it all the same. Here
// the device is pulled out of the bus, and found again.
func TestLabHostdevWanted(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Virsh)
	h := startHost(t)
	h.labCards()
	const disk = cardNVMe
	t.Cleanup(func() { os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0) })
	k := labtest.Kernel("6.12")
	const script = `[ -b /dev/nvme0n1 ] && echo armed; until [ ! -e /dev/nvme0n1 ]; do sleep 0.1; done; echo disk went; while true; do sleep 1; done`
	for _, c := range []struct{ name, args, says string }{
		{"willing", "", "the guest is asked to let go of it"},
		{"deaf", "acpiphp.disable=1", "it is taken away"},
	} {
		if testing.Short() && c.name == "deaf" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
			name := h.define(guest{name: c.name, kernel: k, args: c.args,
				initrd:  labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": script}),
				devices: hostdev(disk, "yes")})
			h.vctl("start", name)
			h.expect(name, "armed", 5*time.Minute)
			removed := make(chan error, 1)
			go func() { removed <- os.WriteFile("/sys/bus/pci/devices/"+disk+"/remove", []byte("1"), 0) }()
			select {
			case err := <-removed:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(2 * time.Minute):
				t.Fatal("the host does not get the device back")
			}
			if c.name == "willing" {
				h.expect(name, "disk went", time.Minute)
			}
			h.until(time.Minute, "the device leaves the definition", func() bool { return !strings.Contains(h.virsh("dumpxml", name), "hostdev") })
			if log := h.sh("cat " + h.path("log/"+name+".log")); !strings.Contains(log, c.says) {
				t.Errorf("the engine's log does not say %q:\n%s", c.says, log)
			}
			h.state(name, "running")
			if err := os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
			h.until(time.Minute, "device back with its driver", func() bool { return driverOf(disk) == "nvme" })
			h.virsh("destroy", name)
		})
	}
	h.t = t
}
