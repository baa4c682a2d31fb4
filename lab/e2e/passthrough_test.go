package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// driverOf is the driver that a PCI function of the host has.
func driverOf(address string) string {
	to, err := os.Readlink("/sys/bus/pci/devices/" + address + "/driver")
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

func (h *host) wantDriver(address, driver string) {
	h.t.Helper()
	if now := driverOf(address); now != driver {
		h.t.Errorf("%s has driver %q, want %q", address, now, driver)
	}
}

// labCards loads the drivers of the lab's cards.
func (h *host) labCards() {
	h.t.Helper()
	for _, module := range []string{"igb", "igbvf", "e1000e", "nvme"} {
		h.sh("modprobe " + module)
	}
	for address, driver := range map[string]string{"0000:01:00.0": "igb", "0000:02:00.0": "e1000e", "0000:03:00.0": "nvme"} {
		h.wantDriver(address, driver)
	}
}

// interfaceOf waits for the interface of a card of the host and returns its name.
func (h *host) interfaceOf(address string) string {
	h.t.Helper()
	var names []string
	h.until(time.Minute, "interface of "+address, func() bool {
		names, _ = filepath.Glob("/sys/bus/pci/devices/" + address + "/net/*")
		return len(names) == 1
	})
	return filepath.Base(names[0])
}

// TestLabDetachReattach: real cards go to vfio-pci and back, by virsh and by vctl, over a kill of virtd; what the host uses
// stays.
func TestLabDetachReattach(t *testing.T) {
	labtest.Need(t, labtest.SRIOV, labtest.Virsh)
	h := startHost(t)
	h.labCards()
	const nic, disk = "0000:02:00.0", "0000:03:00.0"
	interfaces := func() []string {
		names, _ := filepath.Glob("/sys/bus/pci/devices/" + nic + "/net/*")
		return names
	}
	if out := h.virsh("nodedev-detach", "pci_0000_02_00_0"); !strings.Contains(out, "Device pci_0000_02_00_0 detached") {
		t.Errorf("virsh says %q", out)
	}
	h.wantDriver(nic, "vfio-pci")
	if out := h.virsh("nodedev-dumpxml", "pci_0000_02_00_0"); !strings.Contains(out, "<name>vfio-pci</name>") {
		t.Errorf("its XML:\n%s", out)
	}
	h.virsh("nodedev-reset", "pci_0000_02_00_0")
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
	h.virsh("nodedev-reattach", "pci_0000_02_00_0")
	h.wantDriver(nic, "e1000e")
	h.until(time.Minute, "the card's interface", func() bool { return len(interfaces()) == 1 })

	h.vctl("nodedev", "detach", "pci_0000_03_00_0")
	h.wantDriver(disk, "vfio-pci")
	h.vctl("nodedev", "reset", "pci_0000_03_00_0")
	h.vctl("nodedev", "reattach", "pci_0000_03_00_0")
	h.wantDriver(disk, "nvme")

	h.until(time.Minute, "the disk", func() bool { return exists("/dev/nvme0n1") })
	h.sh("mkfs.ext4 -q -F /dev/nvme0n1 && mkdir -p " + h.path("mnt") + " && mount /dev/nvme0n1 " + h.path("mnt"))
	defer syscall.Unmount(h.path("mnt"), 0)
	h.refuses("disk nvme0n1 holds the file system at "+h.path("mnt"), "vctl", "nodedev", "detach", "pci_0000_03_00_0")
	h.wantDriver(disk, "nvme")
}

// TestLabPassthrough: a Debian guest has a virtual function of the igb card and the NVMe disk. It pings the e1000e card's
// interface, which is on the same segment, writes to the disk, and lists their interrupts; then both are the host's again.
func TestLabPassthrough(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Program("ip"))
	h := startHost(t)
	h.labCards()
	const vf, disk, pf = "0000:01:10.0", "0000:03:00.0", "/sys/bus/pci/devices/0000:01:00.0"
	card, peer := h.interfaceOf("0000:01:00.0"), h.interfaceOf("0000:02:00.0")
	h.ip("link", "set", card, "up")
	h.ip("addr", "add", "10.77.0.1/24", "dev", peer)
	h.ip("link", "set", peer, "up")
	if err := os.WriteFile(pf+"/sriov_numvfs", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(pf+"/sriov_numvfs", []byte("0"), 0) })
	h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
	before := driverOf(vf)

	k := labtest.Kernel("6.12")
	script := `for n in /sys/class/net/*; do [ $(basename $n) = lo ] || nic=$(basename $n); done
echo LAB-NIC $(basename $(readlink /sys/class/net/$nic/device/driver)) $(cat /sys/class/net/$nic/address)
ip addr add 10.77.0.2/24 dev $nic; ip link set $nic up; sleep 3
ping -c 5 -W 5 10.77.0.1 && echo LAB-PING ok
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/nvme0n1 ] && break; sleep 1; done
echo passed through > /text; dd if=/text of=/dev/nvme0n1 bs=4096 conv=sync,fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches; echo LAB-DISK $(head -c 14 /dev/nvme0n1)
grep -i -e nvme -e $nic /proc/interrupts; exit 0
`
	devices := `<interface type='hostdev' managed='yes'><mac address='52:54:00:77:00:02'/><source><address type='pci' domain='0' bus='1' slot='0x10' function='0'/></source></interface>
<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='3' slot='0' function='0'/></source></hostdev>`
	name := h.define(guest{name: "through", kernel: k, initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": script}), devices: devices})
	h.vctl("start", name)
	h.wantDriver(vf, "vfio-pci")
	h.wantDriver(disk, "vfio-pci")
	h.refuses("PCI device 0000:03:00.0 is in use by driver QEMU, domain through", "vctl", "nodedev", "reattach", "pci_0000_03_00_0")
	h.expect(name, "LAB-RC: 0", 7*time.Minute)
	out := h.output(name)
	t.Log(out)
	for _, want := range []string{"LAB-NIC igbvf 52:54:00:77:00:02", "LAB-PING ok", "LAB-DISK passed through"} {
		if !strings.Contains(out, want) {
			t.Errorf("the guest does not say %q", want)
		}
	}
	back := func() {
		t.Helper()
		h.until(time.Minute, "device back with its driver", func() bool { return driverOf(vf) == before && driverOf(disk) == "nvme" })
	}
	back()
	h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
	if text := h.sh("head -c 14 /dev/nvme0n1"); text != "passed through" {
		t.Errorf("the host reads %q", text)
	}
}

// TestLabPassthroughKilled: a card is the host's again when the engine is killed, and when virtd and the engine are.
func TestLabPassthroughKilled(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV)
	h := startHost(t)
	h.labCards()
	const disk = "0000:03:00.0"
	name := h.define(guest{name: "killed", kernel: labtest.Kernel("6.12"), devices: `<hostdev mode='subsystem' type='pci' managed='yes'><source>
<address domain='0' bus='3' slot='0' function='0'/></source></hostdev>`})
	back := func() {
		t.Helper()
		h.until(time.Minute, "device back with its driver", func() bool { return driverOf(disk) == "nvme" })
	}
	h.vctl("start", name)
	h.wantDriver(disk, "vfio-pci")
	kill(t, h.engine(name))
	back()
	h.vctl("start", name)
	pid := h.engine(name)
	h.stopDaemon(syscall.SIGKILL)
	kill(t, pid)
	h.startDaemon()
	back()
}
