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
