package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// TestLabDetachReattach: real cards go to vfio-pci and back, by virsh and by vctl, over a kill of virtd; what the host uses
// stays, and what would have to go through iommufd, which Debian's kernels do not have.
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

	modern := h.define(guest{name: "modern", kernel: labtest.Kernel("6.12"), elements: "<iommufd enabled='yes'/>", devices: hostdev(nic, "yes")})
	h.refuses("PCI device 0000:02:00.0 cannot use iommufd: this host does not have it", "vctl", "start", modern)
	h.wantDriver(nic, "e1000e")

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

// passedDiskScript is a guest that makes a file system on its NVMe disk and writes a file of so many 64 KiB.
const passedDiskScript = `
for i in $(seq 20); do [ -b /dev/nvme0n1 ] && break; sleep 1; done
mke2fs -F /dev/nvme0n1 >/dev/null && mount -t ext4 /dev/nvme0n1 /mnt && dd if=/dev/urandom of=/mnt/file bs=64k count=%d 2>/dev/null && sync
echo "card file $(sha256sum </mnt/file)"; umount /mnt && echo card unmounted
grep nvme /proc/interrupts
echo card done
`

// TestLabPassthrough: a Debian guest has a virtual function of the igb card and the NVMe disk at once. A file goes both ways
// between the function and the e1000e card's interface, which is on the same segment; the guest makes a file system on the disk
// and writes a file. Then it panics. Both are the host's again as they were, with what was written.
func TestLabPassthrough(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Program("ip"))
	h := startHost(t)
	h.labCards()
	card := h.interfaceOf(cardIGB)
	h.ip("link", "set", card, "up")
	h.addressed(cardE1000E, "10.77.0.1/24")
	h.functions(1)
	h.ip("link", "set", card, "vf", "0", "mac", "52:54:00:77:00:0a")
	h.rebind(firstVF)
	h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
	vfBefore, diskBefore := h.cardState(firstVF), h.cardState(cardNVMe)
	s := startFileServer(t, passedBytes())
	blocks := 512
	if testing.Short() {
		blocks = 32
	}
	script := networkCardScript("10.77.0", s) + fmt.Sprintf(passedDiskScript, blocks) + "modprobe -a pvpanic-mmio; echo c > /proc/sysrq-trigger\n"
	k := labtest.Kernel("6.12")
	name := h.define(guest{name: "through", kernel: k, initrd: labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": script}),
		elements: "<on_crash>destroy</on_crash>", devices: functionNIC(firstVF, "yes", "52:54:00:77:00:02", "") + hostdev(cardNVMe, "yes") + "<panic model='isa'/>"})
	h.vctl("start", name)
	h.wantDriver(firstVF, "vfio-pci")
	h.wantDriver(cardNVMe, "vfio-pci")
	h.refuses("PCI device 0000:03:00.0 is in use by driver QEMU, domain through", "vctl", "nodedev", "reattach", "pci_0000_03_00_0")
	h.expect(name, "card done", 9*time.Minute)
	h.until(2*time.Minute, "end after the panic", func() bool { return strings.HasPrefix(h.vctl("domstate", "--reason", name), "shut off (crashed)") })
	h.checkNetworkCard(name, "igbvf", "PCI-MSIX", s)
	out := h.output(name)
	if !strings.Contains(out, "address 52:54:00:77:00:02") {
		t.Errorf("the function has another address than in the document:\n%s", tail(out, 3000))
	}
	if n := interrupts(out, "PCI-MSIX", "nvme"); n < 10 {
		t.Errorf("%d interrupts came from the disk:\n%s", n, tail(out, 3000))
	}
	written := regexp.MustCompile(`card file ([0-9a-f]{64})`).FindStringSubmatch(out)
	if written == nil || !strings.Contains(out, "card unmounted") {
		t.Fatalf("the guest wrote no file:\n%s", tail(out, 3000))
	}
	h.wantCard(firstVF, vfBefore)
	h.wantCard(cardNVMe, diskBefore)
	h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
	mount := h.path("mnt")
	h.sh("mkdir -p " + mount + " && mount -t ext4 -o ro /dev/nvme0n1 " + mount)
	defer syscall.Unmount(mount, 0)
	if sum := h.sh("sha256sum <" + mount + "/file"); !strings.HasPrefix(sum, written[1]) {
		t.Errorf("the host reads a file with the sum %s, the guest wrote %s", sum, written[1])
	}
}

// functionNIC is an interface that is a virtual function.
func functionNIC(address, managed, mac, more string) string {
	return fmt.Sprintf("<interface type='hostdev' managed='%s'><mac address='%s'/><source><address type='pci' domain='0' bus='0x%s' slot='0x%s' function='0x%s'/></source>%s</interface>",
		managed, mac, address[5:7], address[8:10], address[11:], more)
}
